"""Synthetic machines and faults for `edgeasd demo`."""
