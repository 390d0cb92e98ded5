"""Other servers with the same work, each set up as its own documentation advises: a
worker a core, one thread each. `python -m loadtest beside` measures them.
"""
