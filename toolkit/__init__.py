"""The workstation side: command line, data sets, models, losses, training, evaluation (floor 4)."""

if not __name__.startswith("edgeasd."):
    raise ImportError(
        f"this folder is the package edgeasd.toolkit and was imported as {__name__!r}; "
        "import edgeasd.toolkit instead (a second copy of its classes would not match the first)"
    )
