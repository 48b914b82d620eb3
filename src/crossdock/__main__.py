"""`python -m crossdock` is the command `crossdock`."""

from crossdock.cli.main import main

if __name__ == "__main__":
    main()
