"""Errors of a domain."""

from __future__ import annotations


class DomainError(Exception):
    """A domain that cannot be served. The message names the part of the domain that is wrong."""
