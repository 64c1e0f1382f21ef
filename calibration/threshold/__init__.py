"""Thresholds from the scores of normal clips."""
