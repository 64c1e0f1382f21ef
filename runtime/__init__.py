"""What listens: features, segments, engines, scores, bundles, sources (floor 1).

Nothing here imports another floor of edgeasd, torch or onnx: this is all that a device needs."""

import os

if not __name__.startswith("edgeasd."):
    raise ImportError(
        f"this folder is the package edgeasd.runtime and was imported as {__name__!r}; "
        "import edgeasd.runtime instead (a second copy of its classes would not match the first)"
    )

# ONNX Runtime reports to its maker from version 1.29 on, unless told not to before it is imported. A factory floor
# did not ask for that. Whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
