"""SPIRE: the broker's own identity, and the verification of everybody else's."""
