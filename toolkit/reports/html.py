"""Pages that hold everything they show: elements, tables and the look that all reports share.

Text is escaped because it is text: `tag` escapes every string that is not already `Html`. The page forbids
itself any request by a content security policy, so it opens offline and stays what it was.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_VOID = {"br", "hr", "img", "meta", "link", "line", "path", "rect", "circle", "polyline", "polygon"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2733; --faint: #5b6875; --rule: #d5dbe1; --card: #f6f8fa;
  --normal: #1f6fb2; --anomaly: #c8501e; --accent: #1f6fb2; --mark: #6a4c93; }
@media (prefers-color-scheme: dark) { :root { --paper: #12171d; --ink: #e4e9ee; --faint: #9aa7b4; --rule: #36414c;
  --card: #1a2129; --normal: #6db3ee; --anomaly: #f39163; --accent: #6db3ee; --mark: #c3a6ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; } h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem;
  padding-top: .75rem; border-top: 1px solid var(--rule); } h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; } .faint, figcaption, caption { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .93rem; margin: .5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; } th, td { padding: .3rem .8rem .3rem 0; text-align: left;
  border-bottom: 1px solid var(--rule); vertical-align: top; overflow-wrap: normal; } td.number { white-space: nowrap; }
thead th { font-size: .85rem; color: var(--faint); font-weight: 600; } tr.total > * { font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.grid + .grid { margin-top: 1rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; } figure img { display: block; width: 100%; height: 9rem;
  border-radius: .25rem; } figure audio { width: 100%; margin-top: .5rem; } figcaption { margin-top: .5rem; }
figcaption b { color: var(--ink); } .key { display: inline-block; width: .8em; height: .8em; margin-right: .35em; opacity: .7; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; } svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .mark { stroke: var(--mark); stroke-dasharray: 5 4; stroke-width: 1.5; fill: none; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .band { opacity: .18; } svg .bar { opacity: .55; }
svg .chance { stroke: var(--faint); stroke-dasharray: 2 4; fill: none; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--accent); }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


class Html(str):
    """Markup that is ready to stand in a page; any other string is text, to be escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as text: escaped, with one mark in place of every character that does not print.

    File names can hold control characters, bytes that are not UTF-8 (surrogates) and marks that reverse the
    direction of writing.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Html(html.escape(shown, quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children: Html as it is, anything else as text; attributes: `class_` is class, None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            # SVG knows names in mixed case and with hyphens: `text_anchor` is text-anchor, `class_` is class.
            words.append(f'{key.rstrip("_").replace("_", "-")}="{text(value)}"')
    if name in _VOID and not children:
        return Html(f"<{' '.join(words)}/>")
    return Html(f"<{' '.join(words)}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children one after the other, strings escaped."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children))


def table(caption: str, headings: Sequence[object], rows: Sequence[Sequence[object]], totals: int = 0) -> Html:
    """A table whose first column heads its rows; the last `totals` rows are set apart."""
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = []
    for number, (first, *rest) in enumerate(rows):
        cells = (tag("td", cell, class_="number") for cell in rest)
        last = "total" if number >= len(rows) - totals else None
        body.append(tag("tr", tag("th", first, scope="row"), *cells, class_=last))
    inner = tag("table", tag("caption", caption), head, tag("tbody", *body))
    # Focusable, so that a wide table can be scrolled from the keyboard.
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def figure(content: object, caption: object) -> Html:
    """A picture, a plot or a sound with what is to be said of it."""
    return tag("figure", content, tag("figcaption", caption))


def grid(*items: object) -> Html:
    """Items beside each other where there is room, below each other on a phone."""
    return tag("div", *items, class_="grid")


def colour_key(colour: str, label: str) -> Html:
    """A small square in a colour of the style sheet (normal, anomaly, …), and what it stands for."""
    return joined([tag("span", class_="key", style=f"background: var(--{colour})", aria_hidden="true"), label, " "])


def data_uri(media_type: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def page(title: str, *body: object) -> Html:
    """A whole document in UTF-8."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    ]
    main = tag("main", tag("h1", title), *body)
    return Html(f'<!doctype html>\n<html lang="en">{tag("head", *head)}{tag("body", main)}</html>\n')
