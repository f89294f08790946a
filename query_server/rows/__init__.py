"""Rows of views, read from the read store."""
