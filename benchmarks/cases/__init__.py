"""Cases, in the order of the table."""

from benchmarks.cases import commands, events, folding, freshness, orders, queries, retail, search

__all__ = ["commands", "events", "folding", "freshness", "orders", "queries", "retail", "search"]
