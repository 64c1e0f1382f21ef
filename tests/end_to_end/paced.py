"""Plays the samples of a WAV file for ever: python paced.py SOUND SPEED. Standard library only.

By a schedule and not by pauses, so that nothing adds up: sample n leaves n / (16000 SPEED) seconds after the start.
"""

from __future__ import annotations

import sys
import time

SLICE_SECONDS = 0.02


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        data = file.read()[44:]
    bytes_a_second = 32_000 * float(sys.argv[2])
    began, sent = time.monotonic(), 0
    while True:
        wanted = int((time.monotonic() - began) * bytes_a_second) // 2 * 2
        while sent < wanted:
            at = sent % len(data)
            part = data[at : at + min(wanted - sent, 65_536)]
            sys.stdout.buffer.write(part)
            sent += len(part)
        sys.stdout.buffer.flush()
        time.sleep(SLICE_SECONDS)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.stderr.close()
