"""Asks libasound, as a program of its own: `python alsa_ask.py names` or `python alsa_ask.py pcm NAME`.

Run as a child and never imported: some of ALSA's plugins hang, print, or take their caller down with them.
Prints one JSON object. Source: alsa-lib's pcm.h, control.h and error.h.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any

CAPTURE, NONBLOCK = 1, 1
FORMATS = {"S16_LE": 2, "S24_3LE": 32, "S24_LE": 6, "S32_LE": 10, "FLOAT_LE": 14}
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)


def library() -> Any:
    asound = ctypes.CDLL("libasound.so.2")
    asound.snd_strerror.restype = c_char_p
    asound.snd_device_name_get_hint.restype = c_void_p
    asound.snd_device_name_get_hint.argtypes = [c_void_p, c_char_p]
    return asound


def names(asound: Any) -> dict[str, Any]:
    """PCM names that say they capture, with their descriptions."""
    hints = ctypes.POINTER(c_void_p)()
    code = asound.snd_device_name_hint(-1, b"pcm", byref(hints))
    if code < 0:
        return {"code": code, "reason": asound.snd_strerror(code).decode(errors="replace")}
    found = []
    for hint in iter(_each(hints)):
        said = {key: _text(asound.snd_device_name_get_hint(hint, key.encode())) for key in ("NAME", "DESC", "IOID")}
        if said["NAME"] and said["IOID"] in (None, "Input"):
            found.append({"name": said["NAME"], "description": " ".join((said["DESC"] or "").split())})
    return {"code": 0, "names": found}


def _each(hints: Any) -> Any:
    at = 0
    while hints[at]:
        yield c_void_p(hints[at])
        at += 1


def _text(address: int | None) -> str | None:
    return None if not address else ctypes.string_at(address).decode(errors="replace")


def ask(asound: Any, name: str) -> dict[str, Any]:
    """What one PCM offers for capture: formats we read, rates that people use, range of channels."""
    pcm, params = c_void_p(), c_void_p()
    code = asound.snd_pcm_open(byref(pcm), name.encode(errors="surrogateescape"), CAPTURE, NONBLOCK)
    if code < 0:
        return {"code": code, "reason": asound.snd_strerror(code).decode(errors="replace")}
    asound.snd_pcm_hw_params_malloc(byref(params))
    code = asound.snd_pcm_hw_params_any(pcm, params)
    if code < 0:
        return {"code": code, "reason": asound.snd_strerror(code).decode(errors="replace")}
    low, high = c_uint(), c_uint()
    asound.snd_pcm_hw_params_get_channels_min(params, byref(low))
    asound.snd_pcm_hw_params_get_channels_max(params, byref(high))
    formats = [
        each
        for each, number in FORMATS.items()
        if asound.snd_pcm_hw_params_test_format(pcm, params, c_int(number)) == 0
    ]
    rates = [rate for rate in RATES if asound.snd_pcm_hw_params_test_rate(pcm, params, c_uint(rate), c_int(0)) == 0]
    return {"code": 0, "formats": formats, "rates": rates, "channels": [low.value, high.value]}


def main(arguments: list[str]) -> None:
    try:
        asound = library()
    except OSError:
        print(json.dumps({"code": None, "reason": "libasound.so.2 is not installed"}))
        return
    print(json.dumps(names(asound) if arguments[0] == "names" else ask(asound, arguments[1])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
