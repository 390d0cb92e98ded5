"""The model repository on disk: paths, records, rendered configs and models."""
