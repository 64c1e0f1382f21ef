"""site.toml: what one box listens to, with which bundles, and whom it tells. docs/service.md describes it."""

from __future__ import annotations

from edgeasd.runtime.site.check import SiteReport, StreamReport, check_site
from edgeasd.runtime.site.problem import Problem, problem_of_file
from edgeasd.runtime.site.reading import parse_site, read_site
from edgeasd.runtime.site.settings import EngineSettings, Site, SiteSettings, StreamSettings

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
