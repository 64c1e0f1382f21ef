"""How far the front end of a bundle is from the features of the runtime, on real clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.export.front_end_graph import FRONT_END
from edgeasd.export.parity import LOAD_LIMITS
from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.frames import frame_samples
from edgeasd.runtime.logmel import Float32Array, logmel
from edgeasd.runtime.manifest import FrontEnd
from edgeasd.runtime.segments import clip_starts


def measure_front_end(bundle: Bundle, sounds: Sequence[Float32Array]) -> FrontEnd:
    """Compare log-mel and scores of clips (n,) float32, in ONNX Runtime on the CPU at fp32.

    The segments of the clip rule are scored from both. Raises InputError without a clip or for one shorter than a
    segment, CheckFailed where a score moves further than a loaded fp32 engine may move it.
    """
    if not sounds:
        raise InputError("--front-end: no clips; name a folder with clips of this machine")
    session = make_session(bundle.file(FRONT_END))
    scorer, _ = bundle.open_scorer(precision="fp32", engine="onnxruntime")
    furthest, moved = 0.0, 0.0
    for sound in sounds:
        expected = logmel(sound, scorer.features, scorer.amplitude)
        frames, length = frame_samples(sound, scorer.features, scorer.amplitude), scorer.segments.frames
        starts = clip_starts(len(expected), scorer.segments)
        # One segment at a time: ten of them, framed, are ten megabytes and their products five times that.
        found = [session.run(None, {"frames": frames[start : start + length][None]})[0][0, 0] for start in starts]
        wanted = np.stack([expected[start : start + length] for start in starts])
        made = np.stack(found)
        furthest = max(furthest, float(np.max(np.abs(made - wanted))))
        difference = scorer.score_segments(made).score - scorer.score_segments(wanted).score
        moved = max(moved, float(np.max(np.abs(difference))))
    scorer.close()
    if not moved <= LOAD_LIMITS.score:
        raise CheckFailed(
            f"{FRONT_END}: moves a score by {moved:.1e} on these clips (allowed {LOAD_LIMITS.score:.0e}), log-mel by "
            f"{furthest:.1e}: float32 is too coarse for bands as empty as theirs; export without --front-end"
        )
    return FrontEnd(file=FRONT_END, logmel=furthest, score=moved, clips=len(sounds))
