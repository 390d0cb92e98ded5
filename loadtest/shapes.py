"""Load shapes: how the number of users changes over the time of a run.

Each is a class of its own to import into a locustfile; --shape and Locust's page choose
among those of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from locust import LoadTestShape
from locust.env import Environment


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        until: Share of the run time at which it ends.
        users: Share of the users that run in it.
    """

    until: float
    users: float


class StagedShape(LoadTestShape):
    """A shape in stages, over the run time (-t) and scaled to the users (-u).

    Attributes:
        stages: The stages, one after the other; the last ends at 1.0.
    """

    abstract = True
    use_common_options = True
    stages: ClassVar[tuple[Stage, ...]] = (Stage(1.0, 1.0),)

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and the spawn rate, or None at the end."""
        runner: Any = self.runner
        options = runner.environment.parsed_options
        elapsed_s = float(self.get_run_time())  # type: ignore[no-untyped-call]
        share = elapsed_s / options.run_time if options.run_time else 0.0
        for stage in self.stages:
            if share < stage.until:
                peak = options.num_users or 1
                # users start at once: a slow start is what the ramp is for
                return max(1, round(peak * stage.users)), peak
        return None


class Steady(StagedShape):
    """All users for the whole time."""


class Ramp(StagedShape):
    """Up to all users in four steps."""

    stages = (Stage(0.25, 0.25), Stage(0.5, 0.5), Stage(0.75, 0.75), Stage(1.0, 1.0))


class Spike(StagedShape):
    """All users for a fifth of the time, and a fifth of them before and after."""

    stages = (Stage(0.4, 0.2), Stage(0.6, 1.0), Stage(1.0, 0.2))


class Soak(StagedShape):
    """70 % of the users, after a short start with 20 %."""

    stages = (Stage(0.02, 0.2), Stage(1.0, 0.7))


SHAPES: dict[str, type[StagedShape]] = {
    shape.__name__.lower(): shape for shape in (Steady, Ramp, Spike, Soak)
}
"""The shapes by their names in --shape."""


def set_shape(environment: Environment, name: str) -> None:
    """Let a run have the shape of that name.

    Args:
        environment: Locust's environment, with its runner.
        name: A name of SHAPES.
    """
    shape = SHAPES[name]()
    shape.runner = environment.runner
    environment.shape_class = shape
