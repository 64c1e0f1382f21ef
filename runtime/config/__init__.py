"""site.toml: what one box listens to, with which bundles, and whom it tells. docs/how-to/service.md describes it."""

from __future__ import annotations

from edgeasd.runtime.config.check import ConfigReport, StreamReport, check_config
from edgeasd.runtime.config.load import ConfigError, error_of_file, parse_config, read_config, usual_config
from edgeasd.runtime.config.settings import EngineSettings, ServiceConfig, ServiceSettings, StreamSettings

__all__ = [
    "ConfigError",
    "ConfigReport",
    "EngineSettings",
    "ServiceConfig",
    "ServiceSettings",
    "StreamReport",
    "StreamSettings",
    "check_config",
    "error_of_file",
    "parse_config",
    "read_config",
    "usual_config",
]
