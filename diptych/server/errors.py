"""Errors of the server shell."""

from __future__ import annotations


class StartError(Exception):
    """A server that cannot start; the message says why."""
