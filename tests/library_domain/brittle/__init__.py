"""Domains that break on purpose."""
