"""Triton Python models that run artefacts; `render` writes them to repositories."""
