"""Forks services for the tests: for each line on standard input (a site file), one whose process ID it prints.

A service takes a second to import what it needs; forked from a process that has done so, ten of them take little.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import onnxruntime  # noqa: F401  for its weight

import edgeasd.runtime.engines.onnxruntime
import edgeasd.runtime.service.service
import edgeasd.runtime.service.view  # noqa: F401
from edgeasd.toolkit.cli.run_service import serve


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                serve(Path(line.strip()), nullcontext)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
