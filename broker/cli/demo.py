"""`tasklease demo`."""


def demo() -> None:
    """Show the main job on the real parts."""
