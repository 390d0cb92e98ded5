"""Building blocks that several references share."""
