"""Segments to scores: head, score, threshold, and the stream that holds all state of one sound."""
