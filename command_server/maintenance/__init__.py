"""Maintenance of the log's file: backup, restore and check."""
