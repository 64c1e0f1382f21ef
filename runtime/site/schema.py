"""The JSON schema of site.toml, made from the models. `docs/schemas/site.json` is what this writes."""

from __future__ import annotations

import json
from typing import Any

from edgeasd.runtime.site.settings import SiteSettings


def site_schema() -> dict[str, Any]:
    """The schema of the whole file, in the dialect of 2020-12."""
    schema = SiteSettings.model_json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgeasd site.toml"}
    return {**title, **{key: value for key, value in schema.items() if key != "title"}}


def schema_text() -> str:
    """The schema as the file in the documentation holds it."""
    return json.dumps(site_schema(), indent=2, ensure_ascii=False) + "\n"
