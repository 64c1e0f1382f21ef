"""What a variant does to scores, and the gate that refuses too much of it."""
