"""The process of one variant: reads a request from standard input, writes events as JSON lines.

{"event": "progress", "done": 1, "total": 6, "text": "batch 1"}
{"event": "measured", "result": {…}}   or   {"event": "failed", "exit_code": 3, "message": "…"}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import EdgeasdError


def main() -> None:
    """Entry point of `python -m edgeasd.runtime.bench.child`."""
    # Libraries write to standard output as they please; events keep it to themselves.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), file=events, flush=True)

    # Here and not above: what an import costs in memory belongs before loading, and its failure is an event.
    from edgeasd.runtime.bench.measure import BenchSettings, measure
    from edgeasd.runtime.bench.variants import Variant

    text = sys.stdin.read()
    if not text:  # whoever started us was stopped in that very moment
        return
    request = json.loads(text)
    request["settings"]["batches"] = tuple(request["settings"]["batches"])
    try:
        result = measure(
            Path(request["bundle"]),
            Variant(**request["variant"]),
            BenchSettings(**request["settings"]),
            lambda done, total, text: emit("progress", done=done, total=total, text=text),
            Path(request["root"]),
        )
    except EdgeasdError as error:
        emit("failed", exit_code=error.exit_code, message=str(error))
    else:
        emit("measured", result=result)


if __name__ == "__main__":
    main()
