"""Durable state in SQL: one schema, one adapter a database."""
