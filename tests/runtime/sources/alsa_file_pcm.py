"""ALSA capture without a sound card: a configuration in which hw and plughw play back a raw file.

The devices neither pace nor end (anything follows the file), so callers count frames. Four more names
refuse things as a raw device would: `stereo_only` mono, `mulaw_only` and `float_only` S16_LE, `only_48000` other
rates.
"""

from __future__ import annotations

from pathlib import Path

STOCK = Path("/usr/share/alsa/alsa.conf")

_TEMPLATE = """
<{stock}>
pcm.!hw {{
  @args [ CARD DEV SUBDEV ]
  @args.CARD {{ type string default "0" }}
  @args.DEV {{ type integer default 0 }}
  @args.SUBDEV {{ type integer default -1 }}
  type file
  slave.pcm "null"
  file "/dev/null"
  infile "{raw}"
  format "raw"
}}
pcm.!plughw {{
  @args [ CARD DEV SUBDEV ]
  @args.CARD {{ type string default "0" }}
  @args.DEV {{ type integer default 0 }}
  @args.SUBDEV {{ type integer default -1 }}
  type plug
  slave.pcm {{
    type file
    slave.pcm "null"
    file "/dev/null"
    infile "{raw}"
    format "raw"
  }}
}}
pcm.stereo_only {{
  type multi
  slaves.a {{ pcm "null" channels 1 }}
  slaves.b {{ pcm "null" channels 1 }}
  bindings.0 {{ slave a channel 0 }}
  bindings.1 {{ slave b channel 0 }}
}}
pcm.mulaw_only {{ type mulaw slave {{ pcm "null" format S16_LE }} }}
pcm.float_only {{ type lfloat slave {{ pcm "null" format S16_LE }} }}
pcm.only_48000 {{ type share slave {{ pcm "null" rate 48000 channels 1 }} bindings.0 0 }}
"""


def write_alsa_config(folder: Path, raw: Path) -> Path:
    """Write asound.conf in `folder`; name it by ALSA_CONFIG_PATH. `raw` holds what the devices deliver."""
    path = folder / "asound.conf"
    path.write_text(_TEMPLATE.format(stock=STOCK, raw=raw))
    return path
