"""How much a variant changes scores, and the gate that refuses too much change."""
