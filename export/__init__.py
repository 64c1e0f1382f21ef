"""From a trained module to ONNX and a bundle (floor 3)."""

if not __name__.startswith("edgeasd."):
    raise ImportError(
        f"this folder is the package edgeasd.export and was imported as {__name__!r}; "
        "import edgeasd.export instead (a second copy of its classes would not match the first)"
    )
