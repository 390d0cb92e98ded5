"""Turns declarations and checkpoints into a Triton model repository.

`python -m builders --help` lists the commands. `builders.spec` holds every kind of
declaration, `builders/models/` one model a file, `builders/networks/` what models
are wired from, and `builders/ops/` what runs a wiring.
"""
