"""The contracts of the library, which its package has imported."""
