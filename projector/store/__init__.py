"""The read store as the projector writes it."""
