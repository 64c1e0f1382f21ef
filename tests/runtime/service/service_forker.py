"""Forks services for the tests: for each line on standard input (a site file), one whose process ID it prints.

A service takes a second to import what it needs; forked from a process that has done so, ten of them take little.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnxruntime  # noqa: F401  for its weight

import edgeasd.runtime.engines.onnxruntime
import edgeasd.runtime.service.live_view
import edgeasd.runtime.service.service  # noqa: F401
from edgeasd.runtime.config import read_config
from edgeasd.toolkit.cli.run import serve


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                serve(read_config(Path(line.strip())), None, "error")
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
