"""Freshness: the progress of every projection, the proof that a read includes a position, and waits."""
