"""site.toml: what one box listens to, with which bundles, and whom it tells. docs/how-to/service.md describes it."""

from __future__ import annotations

from edgeasd.runtime.config.check import SiteReport, StreamReport, check_site
from edgeasd.runtime.config.load import Problem, parse_site, problem_of_file, read_site
from edgeasd.runtime.config.settings import EngineSettings, Site, SiteSettings, StreamSettings

__all__ = [
    "EngineSettings",
    "Problem",
    "Site",
    "SiteReport",
    "SiteSettings",
    "StreamReport",
    "StreamSettings",
    "check_site",
    "parse_site",
    "problem_of_file",
    "read_site",
]
