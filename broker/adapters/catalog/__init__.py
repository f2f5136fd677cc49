"""The catalog as it is now."""
