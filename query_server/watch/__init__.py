"""Watches of views."""
