"""The row cache."""
