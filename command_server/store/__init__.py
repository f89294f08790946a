"""The event store: its interface, its tables and its implementation on SQLite."""
