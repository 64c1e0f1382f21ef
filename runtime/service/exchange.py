"""Other outputs in the place of those that there are, while the service runs; never none where there should be some."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgeasd.runtime.config import ServiceConfig
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.service.keeper import Keeper

_AGAIN_SECONDS, _KEEPER_SECONDS = 10.0, 30.0


class Exchange:
    """Opens and exchanges the outputs of a keeper. Used by one thread; `trouble` may be read by any."""

    def __init__(
        self,
        keeper: Keeper,
        open_outputs: Callable[[ServiceConfig], Outputs | None],
        log: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        """`open_outputs` gives the outputs of a site, None where it names none."""
        self._keeper, self._open, self._log, self._stopping = keeper, open_outputs, log, stopping
        self._due = 0.0
        self.trouble: str | None = None
        """Why no output is open although there should be some."""

    def change(self, old: ServiceConfig, new: ServiceConfig) -> None:
        """From the outputs of `old` to those of `new`; whatever is raised, those of `old` are there again.

        The old ones must be closed first: they hold queues and addresses. Meanwhile events wait in the store.
        """
        before, opened = self._keeper.teller.outputs, None
        closed = before is None
        try:
            self._keeper.call(lambda: self._keeper.use_outputs(None), _KEEPER_SECONDS)
            closed = True
            if before is not None:
                before.close()
            opened = self._open(new)
            self._keeper.call(lambda: self._use(new, opened), _KEEPER_SECONDS)
        except Exception:
            if opened is not None:
                opened.close()
            if closed:
                self._reopen(old)
            else:
                # What was given up late must not stay so.
                self._give(old, before)
            raise
        self.trouble = None

    def mend(self, site: ServiceConfig, now: float) -> None:
        """Try again where the outputs of `site` could not be opened; `now` is monotonic seconds."""
        if self.trouble is not None and now >= self._due:
            self._due = now + _AGAIN_SECONDS
            self._reopen(site)

    def _reopen(self, site: ServiceConfig) -> None:
        try:
            outputs = self._open(site)
        except Exception as error:  # whatever it is, it is tried again
            said = f"no output is open, events wait in the store: {' '.join(str(error).split())[:300]}"
            if said != self.trouble:
                self._log(said)
            self.trouble = said
            outputs = None
        else:
            if self.trouble is not None:
                self._log("the outputs are open again")
            self.trouble = None
        self._give(site, outputs)

    def _give(self, site: ServiceConfig, outputs: Outputs | None) -> None:
        """Also to a keeper that is busy: after whatever it was asked before."""
        while not self._keeper.post(lambda: self._use(site, outputs)):
            if self._keeper.defect is not None or self._stopping.wait(0.1):
                self._keeper.teller.outputs = outputs
                return

    def _use(self, site: ServiceConfig, outputs: Outputs | None) -> None:
        self._keeper.teller.site = site.name
        self._keeper.use_outputs(outputs)
