"""The operating system: the only place that reads clocks and randomness."""
