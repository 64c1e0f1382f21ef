"""Measuring a bundle on the machine it is on: time, streams, memory and energy of every variant."""
