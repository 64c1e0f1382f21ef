"""Calibrates a bundle with normal clips: the work behind `edgeasd calibrate`."""
