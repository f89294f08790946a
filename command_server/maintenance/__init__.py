"""Maintenance of the log's file, by SQLite's own tools: backup, restore and check. No server runs here."""
