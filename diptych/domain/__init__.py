"""The author's API: aggregates, processes, projections, queries and refusals, as pure Python."""
