"""Filling and following of one generation of a projection."""
