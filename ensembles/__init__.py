"""Ensembles, and the Python models in them: each file or folder declares `MODEL`."""
