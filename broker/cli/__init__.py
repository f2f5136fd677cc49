"""The `tasklease` command: one module a noun."""
