"""Fixtures for the tests with programs in other languages."""

from __future__ import annotations

from tests.integration.conftest import shared_pair

__all__ = ["shared_pair"]
