"""Models that join others: each file or folder declares `MODEL`."""
