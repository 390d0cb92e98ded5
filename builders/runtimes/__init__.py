"""Triton Python models that run what was built; `build` copies them to repositories."""
