"""Benchmarks: all figures of the project. `python -m benchmarks --help` lists the options."""
