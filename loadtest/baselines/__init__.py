"""Baselines to compare the server with: this process, and other servers.

Each server is set up as its own documentation advises, with one worker per core and one
thread per worker. `python -m loadtest compare` measures them.
"""
