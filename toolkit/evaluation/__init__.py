"""Judges trained models on their test clips."""
