"""Opening sources: options that do not go together, and what the settings tell."""

from __future__ import annotations

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources import SourceSettings, open_source

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one source is needed"),
        ({"device": "hw:1", "input": "a.wav"}, "one source is needed"),
        ({"input_command": "cat", "input": "-"}, "one source is needed"),
        ({"input": "no/such.wav"}, "no/such.wav: no such file"),
        ({"input": "a\0b", "loop": True}, "not a file name"),
        ({"input": "a.wav", "skip_bad": True}, "a.wav: --skip-bad is for a folder"),
        ({"input": "a.wav", "once": True}, "a.wav: --once is for commands"),
        ({"input": "-", "resample": True}, "standard input: --resample is for files"),
        ({"input": "-", "skip_bad": True}, "standard input: --loop and --skip-bad are for files"),
        ({"device": "hw:1", "realtime": True}, "hw:1: --realtime is for files"),
        ({"device": "hw:1", "loop": True}, "hw:1: --loop and --skip-bad are for files"),
        ({"device": "hw:1", "once": True}, "hw:1: --once is for commands"),
        ({"input_command": "cat", "realtime": True}, "--input-command: --realtime is for files"),
        ({"input_command": "cat", "resample": True}, "--input-command: --resample is for files and devices"),
    ],
)
def test_options_that_do_not_go_together(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(SourceSettings(**options))


@pytest.mark.parametrize(
    ("settings", "is_live", "drops_sound", "label"),
    [
        (SourceSettings(device="hw:1", channel=2), True, True, "hw:1, channel 2"),
        (SourceSettings(device="hw:1", pace="block"), True, False, "hw:1"),
        (SourceSettings(input_command="ffmpeg -i x"), True, True, "command ffmpeg -i x"),
        (SourceSettings(input_command="cat x", once=True), False, False, "command cat x"),
        (SourceSettings(input="a.wav"), False, False, "a.wav"),
        (SourceSettings(input="-", pace="drop"), False, True, "-"),
    ],
)
def test_settings_tell_what_is_live(settings: SourceSettings, is_live: bool, drops_sound: bool, label: str) -> None:
    assert (settings.is_live, settings.drops_sound, settings.label) == (is_live, drops_sound, label)
