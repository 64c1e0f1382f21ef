"""Runs the experiments of the paper as resumable jobs."""
