"""Files that people write, read once, validated and frozen."""
