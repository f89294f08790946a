"""The server shell that all three servers share: routing, health, settings, telemetry and lifecycle."""
