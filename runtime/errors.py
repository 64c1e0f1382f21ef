"""The errors a user may meet, each with the exit code of the command that meets it.

A message is one line: what is wrong (with the offending value), where, and what to do.
The command line prints it as it stands; any other exception that reaches a user is a defect.
"""

from __future__ import annotations


class EdgeasdError(Exception):
    """Base of every error that is meant for a user's eyes."""

    exit_code = 2


class InputError(EdgeasdError):
    """Wrong use or bad input: a file, a manifest, an option (exit code 2)."""

    exit_code = 2


class BundleError(InputError):
    """A bundle that cannot be trusted or read (exit code 2)."""


class CheckFailed(EdgeasdError):
    """A check ran and did not hold: parity, drift, a golden segment (exit code 1)."""

    exit_code = 1


class DeviceError(EdgeasdError):
    """A sound device, engine or accelerator that is not available (exit code 3)."""

    exit_code = 3
