"""`python -m builders`: the command line."""

from builders.commands import run

if __name__ == "__main__":
    run()
