"""From normal clips to quantised graphs, drift, thresholds and constants (floor 2)."""

if not __name__.startswith("edgeasd."):
    raise ImportError(
        f"this folder is the package edgeasd.calibration and was imported as {__name__!r}; "
        "import edgeasd.calibration instead (a second copy of its classes would not match the first)"
    )
