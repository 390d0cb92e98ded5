"""Entry point of `python -m personserve`, the same command as `personserve`."""

from personserve.cli.app import main

main()
