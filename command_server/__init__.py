"""The command server: decides and records."""
