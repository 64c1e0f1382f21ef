"""Asks libasound what it offers, as a program: `python alsa_probe.py names` or `python alsa_probe.py pcm NAME`.

Run as a child and never imported: some of ALSA's plugins hang, print, or crash their caller.
Prints one JSON object. Source: alsa-lib's pcm.h, control.h and error.h.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any

CAPTURE, NONBLOCK = 1, 1
FORMATS = {"S16_LE": 2, "S24_3LE": 32, "S24_LE": 6, "S32_LE": 10, "FLOAT_LE": 14}
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)


def load_library() -> Any:
    """libasound, with the types that ctypes does not guess. Raises OSError if it is not installed."""
    asound = ctypes.CDLL("libasound.so.2")
    asound.snd_strerror.restype = c_char_p
    asound.snd_device_name_get_hint.restype = c_void_p
    asound.snd_device_name_get_hint.argtypes = [c_void_p, c_char_p]
    return asound


def list_names(asound: Any) -> dict[str, Any]:
    """PCM names that capture according to their hints, with descriptions."""
    hints = ctypes.POINTER(c_void_p)()
    code = asound.snd_device_name_hint(-1, b"pcm", byref(hints))
    if code < 0:
        return _failure(asound, code)
    names = []
    for hint in _each(hints):
        name, description, direction = (
            _text(asound.snd_device_name_get_hint(hint, key)) for key in (b"NAME", b"DESC", b"IOID")
        )
        if name and direction in (None, "Input"):
            names.append({"name": name, "description": " ".join((description or "").split())})
    return {"code": 0, "names": names}


def _each(hints: Any) -> Iterator[c_void_p]:
    at = 0
    while hints[at]:
        yield c_void_p(hints[at])
        at += 1


def _text(address: int | None) -> str | None:
    return None if not address else ctypes.string_at(address).decode(errors="replace")


def _failure(asound: Any, code: int) -> dict[str, Any]:
    return {"code": code, "reason": asound.snd_strerror(code).decode(errors="replace")}


def probe_pcm(asound: Any, name: str) -> dict[str, Any]:
    """What one PCM offers for capture: formats that edgeasd reads, usual rates, range of channels."""
    pcm, params = c_void_p(), c_void_p()
    code = asound.snd_pcm_open(byref(pcm), name.encode(errors="surrogateescape"), CAPTURE, NONBLOCK)
    if code < 0:
        return _failure(asound, code)
    asound.snd_pcm_hw_params_malloc(byref(params))
    code = asound.snd_pcm_hw_params_any(pcm, params)
    if code < 0:
        return _failure(asound, code)
    low, high = c_uint(), c_uint()
    asound.snd_pcm_hw_params_get_channels_min(params, byref(low))
    asound.snd_pcm_hw_params_get_channels_max(params, byref(high))
    formats = [
        format
        for format, number in FORMATS.items()
        if asound.snd_pcm_hw_params_test_format(pcm, params, c_int(number)) == 0
    ]
    rates = [rate for rate in RATES if asound.snd_pcm_hw_params_test_rate(pcm, params, c_uint(rate), c_int(0)) == 0]
    return {"code": 0, "formats": formats, "rates": rates, "channels": [low.value, high.value]}


def main(arguments: list[str]) -> None:
    """Print the answer to `names` or to `pcm NAME`."""
    try:
        asound = load_library()
    except OSError:
        print(json.dumps({"code": None, "reason": "libasound.so.2 is not installed"}))
        return
    answer = list_names(asound) if arguments[0] == "names" else probe_pcm(asound, arguments[1])
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
