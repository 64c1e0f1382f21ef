"""A process that does jobs one after the other: a job a line on standard input, events as JSON lines back.

    {"event": "progress", "done": 20, "total": 300, "text": "..."}
    {"event": "finished"}   {"event": "failed", "reason": "...", "again": false}   {"event": "stopped"}

Started by `local` as `python -m edgeasd.toolkit.reproduction.worker ACCELERATOR THREADS`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO, Any

_PROGRESS_EVERY_SECONDS = 1.0


def main(accelerator: str, threads: int) -> None:
    """Work until standard input ends or a request to stop comes."""
    # Libraries print to standard output now and then; only events may reach the parent there.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    import torch

    from edgeasd.toolkit.reproduction.plan import ModelJob
    from edgeasd.toolkit.training.session import stop_requests

    torch.set_num_threads(threads)
    with stop_requests() as should_stop:
        for line in sys.stdin:
            job = ModelJob.model_validate_json(line)
            _say(events, **_attempt(job, accelerator, events, should_stop))


def _attempt(job: Any, accelerator: str, events: IO[str], should_stop: Any) -> dict[str, Any]:
    from edgeasd.toolkit.reproduction.job import Stopped, failure, run_job

    said = 0.0

    def report(done: int, total: int, text: str = "") -> None:
        nonlocal said
        if time.monotonic() - said >= _PROGRESS_EVERY_SECONDS:
            said = time.monotonic()
            _say(events, event="progress", done=done, total=total, text=text)

    try:
        run_job(job, accelerator, report, should_stop)
    except Stopped:
        return {"event": "stopped"}
    except BrokenPipeError:
        raise SystemExit(1) from None  # the parent has gone
    except Exception as error:
        reason, again = failure(job, error)
        return {"event": "failed", "reason": reason, "again": again}
    return {"event": "finished"}


def _say(events: IO[str], **event: Any) -> None:
    print(json.dumps(event), file=events, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
