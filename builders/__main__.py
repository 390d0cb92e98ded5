"""`python -m builders`: the command line."""

from rich.console import Console

with Console(stderr=True).status("loading ..."):  # on a terminal; takes about a second
    from builders.commands.app import run

if __name__ == "__main__":
    run()
