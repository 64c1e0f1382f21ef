"""Samples to log-mel frames, frames to segments."""
