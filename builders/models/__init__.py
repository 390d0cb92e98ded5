"""One model per file; each file declares MODEL and is discovered by its name."""
