"""The real parts, found or built, and run on loopback: for development, tests, the demo and the benchmarks.

Nothing here is for production: there, SPIRE, Vault and the database are the platform team's own.
"""
