"""The one error base of the load tests."""

from __future__ import annotations


class LoadTestError(Exception):
    """A load test that cannot run; the message says what to do."""
