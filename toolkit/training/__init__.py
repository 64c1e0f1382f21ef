"""Trains one network on the clips of one machine ID."""
