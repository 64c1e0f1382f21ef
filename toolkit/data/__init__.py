"""Finds, splits, reads and caches the clips of a data set."""
