"""Benchmarks: where every figure of the project comes from. `python -m benchmarks --help`."""
