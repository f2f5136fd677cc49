"""The demo: the main job, told step by step on the real parts, each claim checked.

`story` tells and checks, `agent` is the program that runs as an agent instance, `callers` makes calls as anybody,
`database` sees what PostgreSQL says of a credential.
"""
