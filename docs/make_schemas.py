"""Write docs/schemas/: the JSON schemas of site.toml and of the messages that leave a box, from their models.

python docs/make_schemas.py
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgeasd.runtime.config import settings
from edgeasd.runtime.config.load import config_schema
from edgeasd.runtime.outputs import base, message_models
from edgeasd.runtime.outputs import settings as output_settings
from edgeasd.runtime.outputs.message_models import MODELS
from edgeasd.runtime.outputs.messages import SCHEMA
from edgeasd.runtime.states import settings as state_settings

DESCRIBED = (base, output_settings, message_models, state_settings, settings)
"""Modules whose models are described, in the order in which they use each other."""
FOLDER = Path(__file__).parent / "schemas"


def describe_models() -> None:
    """Make the docstring beneath each field its description.

    pydantic can do so itself when a model is made, but then reads its source at every start of the program.
    """
    found = [
        value
        for module in DESCRIBED
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    ]
    texts = {model: _docstrings(model) for model in found}
    for model in found:
        for name, field in model.model_fields.items():
            owner = next(one for one in model.__mro__ if name in vars(one).get("__annotations__", {}))
            field.description = texts.get(owner, {}).get(name, field.description)
    for model in found:
        model.model_rebuild(force=True)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        if field.target.id in model.model_fields
    }


def schemas() -> dict[str, str]:
    """File name to content: the site file, and every kind of message."""
    describe_models()
    found = {"site.json": json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"}
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
