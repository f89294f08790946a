"""Databases without domain knowledge: threads, locks, copies, batch sizes and the read store's schema."""
