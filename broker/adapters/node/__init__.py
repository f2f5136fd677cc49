"""The machine on which instances run: its ledger, its processes, how each kind of instance is started."""
