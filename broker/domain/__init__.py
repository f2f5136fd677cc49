"""The words of Tasklease as frozen types, state machines and the error tree.

Standard library only: nothing here knows of gRPC, SQL, Vault or SPIRE (import-linter holds it to that).
"""
