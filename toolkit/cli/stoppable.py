"""Training that a user may stop: progress, the request to stop, and the one line when it was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from edgeasd.toolkit.cli._errors import INTERRUPTED, print_error
from edgeasd.toolkit.progress import ProgressCallback, progress


@contextmanager
def stoppable(what: str, label: str, iterations: int) -> Iterator[tuple[Callable[[], bool], ProgressCallback]]:
    """Yield (should_stop, report); an interrupted run becomes one line that says how to go on, and exit code 130."""
    from edgeasd.toolkit.training.session import stop_requests
    from edgeasd.toolkit.training.trainer import Interrupted

    try:
        with stop_requests() as should_stop, progress(label) as report:
            yield should_stop, report
    except Interrupted as stopped:
        print_error(
            f"{what} stopped at iteration {stopped.iteration} of {iterations}; "
            "a checkpoint was written: go on with the same command and --resume"
        )
        raise typer.Exit(INTERRUPTED) from None
