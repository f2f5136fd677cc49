"""Anomaly detectors: pure folds over what an instance did, which say what is not right about it. They decide nothing."""
