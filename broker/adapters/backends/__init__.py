"""The backends themselves, looked at by the broker: does one refuse what was revoked?"""
