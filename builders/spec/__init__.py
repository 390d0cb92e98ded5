"""Declarations of models and ensembles, and their discovery."""
