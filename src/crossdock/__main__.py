"""`python -m crossdock`: the same as the command."""

from crossdock.cli.main import main

main()
