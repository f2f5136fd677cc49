"""Protocols that use cases need and adapters implement: roles, not products."""
