"""Write docs/schemas/: the JSON schemas of site.toml and of the messages that leave a box, from their models.

python docs/make_schemas.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeasd.runtime.config.load import schema_text
from edgeasd.runtime.outputs.messages import MODELS, SCHEMA

FOLDER = Path(__file__).parent / "schemas"


def schemas() -> dict[str, str]:
    """File name to content: the site file, and every kind of message."""
    found = {"site.json": schema_text()}
    for name, model in MODELS.items():
        schema: dict[str, Any] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(by_alias=True, ref_template="#/$defs/{model}"),
        }
        found[f"{name}-{SCHEMA}.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return found


def main() -> None:
    """Write them all, and remove what is no longer made."""
    FOLDER.mkdir(exist_ok=True)
    made = schemas()
    for path in FOLDER.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (FOLDER / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main()
