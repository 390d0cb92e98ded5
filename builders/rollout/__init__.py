"""Rollout: another version of a model on a running server, without an interruption."""
