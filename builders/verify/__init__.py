"""Verification: numeric comparison of built files with the torch reference."""
