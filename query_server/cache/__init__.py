"""Cached rows and list responses."""
