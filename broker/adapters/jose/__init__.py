"""Signed tokens of others, through PyJWT."""
