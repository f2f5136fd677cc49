"""Benchmarks: ours beside the bare thing, in one run, as ratios. `make bench`."""
