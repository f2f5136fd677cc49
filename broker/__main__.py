"""`python -m broker` is `tasklease`."""

from broker.cli.main import main

main()
