"""`python -m builders`: the command line."""

from builders.cli import main

if __name__ == "__main__":
    main()
