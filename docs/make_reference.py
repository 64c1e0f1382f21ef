"""Write docs/reference/{commands,settings,messages}.md and docs/schemas/ from the program itself.

    python docs/make_reference.py            # write them
    python docs/make_reference.py --check    # exit code 1 if they differ

Run it after a change to an option, a setting or a message; a test compares the files with what it makes.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

DOCS = Path(__file__).resolve().parent
SHARED_BY = 3
"""An option with the same default and help in this many commands is described once."""

_MADE = "<!-- Made by docs/make_reference.py. Do not edit. -->\n"

_COMMANDS = """
# Commands

`edgeasd COMMAND --help` prints the same. `python -m edgeasd` is the same program.

Results go to standard output; logs and progress go to standard error. An error is one line with the value, the place and the remedy.

## Exit codes

| code | meaning |
|---|---|
| 0 | fine |
| 1 | a check failed: drift, parity, reference segments, a clip with a complaint, a test alarm not delivered, `status` with a concern |
| 2 | wrong use or bad input: an option, a file, a bundle, a missing package |
| 3 | a sound device, engine or accelerator is not available; `doctor` found a problem; no service runs |
| 130 | stopped by Ctrl-C |
| 141 | the reader of standard output has gone |
| 143 | stopped by SIGTERM or SIGHUP; `run` ends in order on SIGTERM, with 0 |

## Environment

A workspace is a folder with `runs/`, `bundles/` and `cache/`. It is the current folder unless `--workspace` names another.

"""

_SETTINGS = """
# Settings of site.toml

[Run a service](../how-to/service.md) shows a whole file. An unknown key, a wrong type and a value out of range are errors that name the place. A setting in **bold** is required. The JSON schema is [site.json](../schemas/site.json).
"""

_MESSAGES = """
# Messages

What leaves the device: through [outputs](../how-to/outputs.md), in the records of `run --jsonl`, and in those of `score --live`. Each is one JSON object on one line. A receiver must ignore fields that it does not know. This is schema version {version}; [what changed](#changes-from-version-1).

```json
{{"schema": 2, "store": "61fb944a11703a43", "seq": 41, "stored": true, "kind": "score", "site": "plant", "machine": "valve", "id": "00", "event": null, "at": "2027-01-15T08:00:03.000Z", "body": {{"since": "2027-01-15T07:59:53.000Z", "count": 52, "last": 0.031, "mean": 0.029, "lowest": 0.027, "highest": 0.034, "threshold": 0.04, "complete": true}}}}
```

| kind | outputs | records | content |
|---|---|---|---|
| `event` | yes | yes | a transition of the alarm state |
| `score` | yes | | clip scores of some seconds |
| `segment` | | yes | one scored segment |
| `health` | yes | yes | the health of the input |
| `gap` | | yes | lost sound |
| `source` | | yes | the source was lost, came back, or went on with another file |
| `start`, `status`, `stop` | yes | yes | what a stream or the service is doing |
"""

_ENVELOPE = """
A stream whose bundle was never read has the machine `?` and its own name as ID, unless the site file gives them. `score --live` adds `file`, the path of the recording.

**Resends.** Keep the highest `seq` of each `store`, and drop a message at or below it. One number serves all outputs, kinds and machines, so a number that an output does not get is no loss. The `sequence` in the body of an event has no holes for each machine. A new store begins if the database was lost.
"""

_CHANGES = """
## Changes from version 1

| where | version 1 | version 2 |
|---|---|---|
| envelope | `queue`, one for each output | `store`, one for all outputs |
| envelope | `sequence`, for each queue and machine | `seq`, rises for each store |
| envelope | | `stored` |
| event | `schema`, `type` in the body | gone: the envelope says it |
| event | `frozen`; reason `input_sick` | `suspended`; reason `input_unhealthy` |
| health | `schema` in the body | gone |
| health | `sick`, `sick_since_seconds` | `unhealthy`, `unhealthy_since_seconds` |
| records | flat, with `type` and `version` | the envelope, with `kind` and `body` |
| records | type `score` with `alarm` | kind `segment` with `above_threshold` |
| records | type `alarm`, `alarm_cleared` in a gap | kind `event` |
| records | type `late`, `overload` with `keep_every` | kind `status` with `waiting_seconds`, `decimation` |
| records | type `end`, `reopened` | kind `stop`, `reconnects` |
| records | `status` in `start`; `time` in `source` | `bundle_status`; `at` of the envelope |
| webhook | `X-Edgeasd-Signature`, `X-Edgeasd-Timestamp`, `Idempotency-Key` | `webhook-signature`, `webhook-timestamp`, `webhook-id` |
| Prometheus | `edgeasd_input_sick` | `edgeasd_input_unhealthy` |
| Home Assistant | template on `body.sick` | on `body.unhealthy`; published anew with the first message |

MQTT topics are the same. Messages that an earlier version left in its queues are sent with the words of version 2.
"""


# Commands


@dataclass(frozen=True)
class Option:
    """One option or argument of a command."""

    names: tuple[str, ...]
    default: str
    help: str
    variable: str | None
    is_argument: bool
    required: bool

    @property
    def row(self) -> str:
        names = ", ".join(f"`{name}`" for name in self.names)
        return f"| {names} | {self.default} | {_cell(self.help)} |"


@dataclass(frozen=True)
class Command:
    """One command: its words, its help page in parts, its options."""

    name: str
    summary: str
    text: str
    example: str
    options: tuple[Option, ...]


def commands() -> list[Command]:
    """Every command in the order of `edgeasd --help`, those of a group by both words."""
    from edgeasd.toolkit.cli import app

    return [_command(" ".join(path), command) for path, command in _walk(typer.main.get_command(app), [])]


def _walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    if path and command.invoke_without_command:  # a group that is a command too
        yield path, command
    for name, part in inner.items():
        yield from _walk(part, [*path, name])


def _command(name: str, command: Any) -> Command:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    summary, _, rest = text.strip().partition("\n")
    shown = [one for one in command.params if one.name != "help" and not getattr(one, "hidden", False)]
    options = [_option(parameter) for parameter in shown]
    return Command(name, summary.strip(), " ".join(rest.split()), " ".join(example.split()), tuple(options))


def _option(parameter: Any) -> Option:
    is_argument = parameter.param_type_name == "argument"
    names = (parameter.name.upper(),) if is_argument else tuple(sorted(parameter.opts, key=len, reverse=True))
    default = parameter.default() if callable(parameter.default) else parameter.default
    shown = "" if default is None or default is False or default in ([], ()) else f"`{default}`"
    return Option(
        names,
        "required" if parameter.required else shown,
        (getattr(parameter, "help", None) or "").strip(),
        getattr(parameter, "envvar", None) if isinstance(getattr(parameter, "envvar", None), str) else None,
        is_argument,
        bool(parameter.required),
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _anchor(name: str) -> str:
    return re.sub(r"[^\w-]", "", name.lower().replace(" ", "-"))


def commands_page() -> str:
    """docs/reference/commands.md."""
    every = commands()
    count = Counter(option for command in every for option in command.options if not option.is_argument)
    # Of options with one name and several meanings the most frequent is shared; the others stay in their tables.
    most = {option.names: option for option, _ in reversed(count.most_common())}
    shared = {option for option, times in count.items() if times >= SHARED_BY and most[option.names] == option}
    variables = {option.variable: option.names[0] for command in every for option in command.options if option.variable}
    lines = [_MADE, _COMMANDS.lstrip("\n")]
    lines.append("| variable | same as |\n|---|---|\n")
    lines += [f"| `{variable}` | `{name}` |\n" for variable, name in sorted(variables.items())]
    lines.append("\n## Options of several commands\n\nA command lists them by name under its table.\n\n")
    lines.append("| option | default | meaning |\n|---|---|---|\n")
    lines += [f"{option.row}\n" for option in sorted(shared, key=lambda o: (o.names, o.help))]
    for command in every:
        lines.append(f"\n## edgeasd {command.name}\n\n{command.summary}")
        lines.append(f" {command.text}\n" if command.text else "\n")
        if command.example:
            lines.append(f"\n```sh\n{command.example}\n```\n")
        own = [option for option in command.options if option not in shared]
        if own:
            lines.append("\n| option | default | meaning |\n|---|---|---|\n")
            lines += [f"{option.row}\n" for option in own]
        if also := [f"`{option.names[0]}`" for option in command.options if option in shared]:
            lines.append(f"\n[Also](#options-of-several-commands): {', '.join(also)}.\n")
    return "".join(lines)


# Models


Schema = Mapping[str, Any]


def _tables(title: str, model: type[BaseModel], level: int = 2, leave_out: frozenset[str] = frozenset()) -> str:
    """A heading, what the model is, and a table of its settings."""
    schema = model.model_json_schema(by_alias=True)
    about = _linked(" ".join(schema.get("description", "").split()))
    head = f"\n{'#' * level} {title}\n\n{about}\n\n| setting | value | default | meaning |\n|---|---|---|---|\n"
    return head + "".join(_rows(model, schema, leave_out))


def _rows(model: type[BaseModel], schema: Schema, leave_out: frozenset[str] = frozenset()) -> Iterator[str]:
    about, required = _attribute_docstrings(model), set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        if name not in leave_out:
            shown = f"**`{name}`**" if name in required else f"`{name}`"
            meaning = _linked(_cell(field.get("description") or about.get(name, "")))
            kind = _kind(field, schema.get("$defs", {})).removesuffix(" or null")
            yield f"| {shown} | {kind} | {_default(field)} | {meaning} |\n"


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each attribute of a model and of those it comes from."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except (OSError, TypeError):
            continue  # made by create_model
        assert isinstance(node, ast.ClassDef)
        for line, after in pairwise(node.body):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[line.target.id] = str(after.value.value)
    return found


def _linked(text: str) -> str:
    """`docs/reference/alarms.md` as a link from a page of reference/."""
    return re.sub(r"docs/(?:reference/|(?=[\w-]+/))([\w/-]+)\.md", _link, text)


def _link(match: re.Match[str]) -> str:
    path = match[1]
    return f"[{path.rpartition('/')[2]}]({'../' if '/' in path else ''}{path}.md)"


def _kind(field: Schema, parts: Schema) -> str:
    """The values a field takes, in few words."""
    if "$ref" in field:
        part = parts.get(field["$ref"].rpartition("/")[2], {})
        return _kind(part, parts) if "enum" in part or "const" in part else "table"
    if "anyOf" in field or "oneOf" in field:
        kinds = [_kind(one, parts) for one in field.get("anyOf", field.get("oneOf"))]
        return " or ".join(dict.fromkeys(kinds))
    if "allOf" in field and len(field["allOf"]) == 1:
        return _kind(field["allOf"][0], parts)
    if "const" in field:
        return f"`{_shown(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{_shown(value)}`" for value in field["enum"])
    kind = field.get("type", "any")
    if kind in ("integer", "number"):
        return _range("whole number" if kind == "integer" else "number", field)
    if kind == "array":
        return f"list of {_kind(field.get('items', {}), parts)}"
    words = {"string": "text", "boolean": "true, false", "object": "table"}
    return words.get(kind, str(kind))


def _range(kind: str, field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    start = _figure(low) if low is not None else (f"above {_figure(above)}" if above is not None else None)
    end = _figure(high) if high is not None else (f"below {_figure(below)}" if below is not None else None)
    if kind == "whole number" and high is not None and high > 1e9:
        end = None
    if start is None and end is None:
        return kind
    limits = f"{start} to {end}" if start and end else (f"at most {end}" if end else str(start))
    if start and not end and above is None:
        limits += " or more"
    return limits if kind == "number" else f"{kind}, {limits}"


def _figure(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list) and len(value) > 1:
        return "all"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# Settings


def settings_page() -> str:
    """docs/reference/settings.md."""
    from edgeasd.runtime.alarms.settings import SERVICE, AlarmSettings
    from edgeasd.runtime.config import settings as site
    from edgeasd.runtime.evidence.settings import ClipSettings, KeepSettings
    from edgeasd.runtime.health.settings import HealthSettings
    from edgeasd.runtime.outputs.settings import TYPES

    text = _MADE + _SETTINGS.lstrip("\n")
    text += _tables("Top level", site.ServiceSettings)
    text += _tables("streams.NAME", site.StreamSettings)
    text += _tables("engines.NAME", site.EngineSettings)
    text += _tables("streams.NAME.alarm", AlarmSettings)
    service = ", ".join(f"`{k} = {_shown(v)}`" for k, v in SERVICE.model_dump(exclude_unset=True).items())
    text += f"\nIn a site file the defaults are these instead: {service}.\n"
    states = {n: f.default for n, f in HealthSettings.model_fields.items() if isinstance(f.default, BaseModel)}
    text += _tables("streams.NAME.health", HealthSettings, leave_out=frozenset(states))
    text += f"\nA table for each state: {', '.join(f'`{name}`' for name in states)}. In each, `enabled = false` turns it off, "
    text += "and a state begins (ends) when its on (off) value has held for `on_seconds` (`off_seconds`).\n"
    for name, state in states.items():
        text += _tables(f"streams.NAME.health.{name}", type(state), 3, frozenset({"enabled"}))
    text += _tables("streams.NAME.evidence", ClipSettings)
    text += _tables("evidence", KeepSettings)
    text += _tables("retention", site.RetentionSettings)
    text += "\n## outputs.NAME\n\nOne table for each output. `type` says which of these it is.\n"
    text += _outputs("Every output but prometheus", "", TYPES, set(TYPES) - {"prometheus"})
    text += _outputs("mqtt and webhook", "", TYPES, {"mqtt", "webhook"})
    for name in TYPES:
        text += _outputs(f"type {name}", inspect.getdoc(TYPES[name]) or "", TYPES, {name})
    return text


def _outputs(title: str, about: str, types: Mapping[str, type[BaseModel]], names: set[str]) -> str:
    """The settings that these types have and no other, `kinds` once more where its default differs."""
    having = {
        field: {n for n, model in types.items() if field in model.model_fields}
        for n in types
        for field in types[n].model_fields
    }
    some = types[sorted(names)[0]]
    others = frozenset(field for field, owners in having.items() if owners != names)
    if names == {"webhook"}:
        others -= {"kinds"}
    rows = "".join(_rows(some, some.model_json_schema(by_alias=True), others))
    head = f"\n### {title}\n\n" + (f"{about}\n\n" if about else "")
    return head + "| setting | value | default | meaning |\n|---|---|---|---|\n" + rows


# Messages


def messages_page() -> str:
    """docs/reference/messages.md."""
    from edgeasd.runtime.outputs import message_models as models
    from edgeasd.runtime.outputs.messages import SCHEMA

    text = _MADE + _MESSAGES.lstrip("\n").format(version=SCHEMA)
    text += (
        "\n## Envelope\n\n"
        + "Every message has these fields, and `kind` and `body`.\n\n"
        + _fields(models.Message)
        + _ENVELOPE
    )
    seen: set[type[BaseModel]] = set()
    for name, model in models.MODELS.items():
        text += f"\n## {name}\n\n{inspect.getdoc(model)} JSON schema: [{name}-{SCHEMA}.json]"
        text += f"(../schemas/{name}-{SCHEMA}.json)\n\n"
        body = model.model_fields["body"].annotation
        assert isinstance(body, type)
        if body in seen:
            text += "The body has the fields of the kind above.\n"
            continue
        seen.add(body)
        text += _fields(body)
        for field, part in _parts(body):
            text += f"\n`{field}`: {inspect.getdoc(part)}\n\n{_fields(part)}"
    return text + _CHANGES


def _fields(model: type[BaseModel], leave_out: set[str] | None = None) -> str:
    schema, about = model.model_json_schema(by_alias=True), _attribute_docstrings(model)
    text = "| field | value | meaning |\n|---|---|---|\n"
    for name, field in schema.get("properties", {}).items():
        if name not in (leave_out or set()):
            meaning = _linked(_cell(field.get("description") or about.get(name, "")))
            text += f"| `{name}` | {_kind(field, schema.get('$defs', {}))} | {meaning} |\n"
    return text


def _parts(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models inside a model, by field."""
    for name, field in model.model_fields.items():
        waiting = [field.annotation]
        while waiting:
            one = waiting.pop()
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield name, one
            waiting += getattr(one, "__args__", ())


# All


def pages() -> dict[str, str]:
    """Path below docs/ to content."""
    schemas = runpy.run_path(str(DOCS / "make_schemas.py"))["schemas"]()
    made = {"commands": commands_page(), "settings": settings_page(), "messages": messages_page()}
    return {
        **{f"reference/{name}.md": _compact(text) for name, text in made.items()},
        **{f"schemas/{name}": content for name, content in schemas.items()},
    }


def _compact(text: str) -> str:
    """Tables without spaces around their bars."""
    lines = (re.sub(r" *(?<!\\)\| *", "|", line) if line.startswith("|") else line for line in text.splitlines())
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write all pages, or compare them with `--check`."""
    made = pages()
    stale = [name for name, text in made.items() if not (path := DOCS / name).exists() or path.read_text() != text]
    stale += [
        f"schemas/{path.name}" for path in (DOCS / "schemas").glob("*.json") if f"schemas/{path.name}" not in made
    ]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/{name}: not as the program is; run `python docs/make_reference.py`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        path = DOCS / name
        if name in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[name], "utf-8")
        else:
            path.unlink()
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
