"""`python -m personserve` is the command personserve."""

from personserve.cli import main

main()
