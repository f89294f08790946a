"""Watches: rows of a view as they are, then every change."""
