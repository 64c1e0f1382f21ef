"""site.toml: what one box listens to, with which bundles, and whom it tells. docs/service.md describes it."""

from __future__ import annotations

from edgeasd.runtime.site.check import SiteReport, StreamReport, check_site, open_site
from edgeasd.runtime.site.reading import parse_site, read_site
from edgeasd.runtime.site.settings import EngineSettings, Site, SiteSettings, StreamSettings

__all__ = [
    "EngineSettings",
    "Site",
    "SiteReport",
    "SiteSettings",
    "StreamReport",
    "StreamSettings",
    "check_site",
    "open_site",
    "parse_site",
    "read_site",
]
