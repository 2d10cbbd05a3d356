"""Entry of the command line: `zbusrpc` and `python -m zbusrpc`."""

from zbusrpc.cli.app import main

if __name__ == "__main__":
    main()
