"""Freshness: progress of every projection, the proof of what a read includes, and waits."""
