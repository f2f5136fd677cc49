"""Telling systems outside, over HTTPS."""
