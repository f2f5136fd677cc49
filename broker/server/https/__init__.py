"""HTTPS doors: what is checked before each request, strict JSON, and errors as HTTP statuses."""
