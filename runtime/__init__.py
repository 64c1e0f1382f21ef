"""What listens: features, segments, engines, scores, bundles, sources (floor 1).

Nothing here imports another floor of edgeasd, torch or onnx: this is all that a device needs."""

if not __name__.startswith("edgeasd."):
    raise ImportError(
        f"this folder is the package edgeasd.runtime and was imported as {__name__!r}; "
        "import edgeasd.runtime instead (a second copy of its classes would not match the first)"
    )
