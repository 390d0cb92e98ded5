"""Building blocks that several models share: residual stages, heads, families."""
