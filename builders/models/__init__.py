"""One file, one model: each declares `MODEL`, and is found by being here."""
