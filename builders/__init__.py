"""Building a Triton model repository from declarations and checkpoints.

`python -m builders --help` lists the commands. Each folder is a step: `spec` defines
the kinds of declarations, `models` declares one model per file, `networks` holds their
building blocks, and `ops` the backends that run them.
"""
