"""Policy of repeated requests: attempts, pauses, and a budget against overload."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from personserve._errors import InvalidInputError


@dataclass(frozen=True)
class Retry:
    """Policy for repeating failed requests, with exponential back-off and full jitter.

    A request is repeated if no server answered, the connection broke, the model is
    being loaded, or the server is overloaded. It is not repeated after a deadline, nor
    if the model is stateful. If every server is overloaded, a budget (RetryBudget)
    limits the repetitions of all calls of a client.

    Attributes:
        attempts: Attempts for each request in all, over all endpoints.
        initial_backoff_s: Upper limit of the pause after the first failure in seconds;
            it doubles with each further failure.
        max_backoff_s: Upper limit of any pause in seconds.

    Raises:
        InvalidInputError: If `attempts` is less than 1.
    """

    attempts: int = 4
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidInputError(f"Retry: attempts {self.attempts}; at least 1")

    def backoff_s(self, failures: int) -> float:
        """Draw the pause after a failure.

        Full jitter as in "Exponential Backoff And Jitter" of the AWS Architecture Blog.

        Args:
            failures: Number of failures so far, at least 1.

        Returns:
            Seconds, uniformly random between 0 and the current upper limit.
        """
        doublings = min(failures - 1, 64)  # an endpoint may fail for days
        limit_s = min(self.max_backoff_s, self.initial_backoff_s * 2**doublings)
        return random.uniform(0.0, limit_s)  # noqa: S311 - spreads load, no secret


class RetryBudget:
    """Limit on requests that are repeated while every server of a client is overloaded.

    Without it every refused request would be sent `Retry.attempts` times, which
    multiplies the load of servers that have too much of it. The rule is gRPC's retry
    throttling (gRFC A6): a bucket begins full, each refusal takes one token, each
    answer returns a tenth, and nothing is repeated while the bucket is half empty. So
    a client repeats five requests, and then none until there are ten times as many
    answers as refusals. A request that another server can take needs no token.
    """

    CAPACITY = 10.0
    ANSWER_TOKENS = 0.1

    def __init__(self) -> None:
        self._tokens = self.CAPACITY
        self._lock = threading.Lock()

    def withdraw(self) -> bool:
        """Take a token for a refusal; return whether its request may be repeated."""
        with self._lock:
            allowed = self._tokens > self.CAPACITY / 2
            self._tokens = max(0.0, self._tokens - 1)
            return allowed

    def deposit(self) -> None:
        """Return a part of a token for an answer."""
        with self._lock:
            self._tokens = min(self.CAPACITY, self._tokens + self.ANSWER_TOKENS)
