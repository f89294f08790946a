"""Query server: answers queries, at least as fresh as required."""
