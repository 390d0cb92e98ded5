"""Trying other instances and batching on a running server, and restoring its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.server import (
    ensemble_steps,
    get_config,
    get_served_version,
    post_json,
)

TUNED_KEYS = ("instance_group", "dynamic_batching")

QUEUE_POLICY = "default_queue_policy"
UNMERGED = [1]
"""Preferred batch sizes by which Triton's batcher merges no requests, so that a model
that does not batch can have a queue policy."""


@dataclass(frozen=True)
class Settings:
    """Instances and batching of a model.

    Attributes:
        instances: Number of model instances.
        queue_delay_us: Longest wait for more requests to merge, in microseconds; None
            if requests are not merged.
        preferred: Batch sizes that end the wait at once.
    """

    instances: int
    queue_delay_us: int | None
    preferred: tuple[int, ...] = ()

    def __str__(self) -> str:
        words = [f"{self.instances} instance{'s' * (self.instances > 1)}"]
        if self.queue_delay_us is None:
            return f"{words[0]}, not merged"
        words.append(f"merged, {self.queue_delay_us} us")
        if self.preferred:
            words.append(f"preferably {', '.join(map(str, self.preferred))}")
        return ", ".join(words)


class LiveConfig:
    """The configuration of a model on a running server."""

    def __init__(self, http: str, model: str) -> None:
        """Read the configuration.

        Args:
            http: HTTP address of the server, host:port.
            model: Name of the model.

        Raises:
            LoadTestError: If the server is unreachable, or the model is unknown, an
                ensemble, or does not batch.
        """
        self._http, self._model = http, model
        self._config = config = get_config(http, model)
        if ensemble_steps(config) or not config.get("instance_group"):
            raise LoadTestError(
                f"{model} is an ensemble: tune the models that it joins"
            )
        if config["max_batch_size"] < 1:
            raise LoadTestError(
                f"{model} does not batch; set its instances in its declaration"
            )

    @property
    def is_cpu(self) -> bool:
        """Whether the model's instances run on the CPU."""
        kind: str = self._config["instance_group"][0]["kind"]
        return kind == "KIND_CPU"

    @property
    def declared(self) -> Settings:
        """The settings that the configuration had at first."""
        batching = self._config.get("dynamic_batching")
        instances = sum(int(group["count"]) for group in self._config["instance_group"])
        if batching is None or batching.get("preferred_batch_size") == UNMERGED:
            return Settings(instances, None)
        return Settings(
            instances,
            int(batching.get("max_queue_delay_microseconds", 0)),
            tuple(batching.get("preferred_batch_size", ())),
        )

    def apply(self, settings: Settings) -> None:
        """Reload the model with other settings, by Triton's repository API.

        Args:
            settings: The settings to run with from now on.

        Raises:
            LoadTestError: If the server refuses.
        """
        self._load(config_with_settings(self._config, settings))

    def restore(self) -> None:
        """Reload the model with the configuration that it had at first.

        Raises:
            LoadTestError: If the server refuses.
        """
        # sent as a configuration, because Triton does not reload unchanged files
        self._load(self._config)

    def diff(self, settings: Settings) -> str:
        """Return the difference of the configuration with other settings.

        Args:
            settings: The settings to compare with the declared ones.

        Returns:
            A unified diff of the tuned keys as JSON.
        """
        return config_diff(self._config, settings)

    def _load(self, config: Mapping[str, Any]) -> None:
        # a version that was built and not rolled out must not be loaded by the way
        version = get_served_version(self._http, self._model)
        pinned = {**config, "version_policy": {"specific": {"versions": [version]}}}
        content = {"parameters": {"config": json.dumps(pinned)}}
        path = f"v2/repository/models/{self._model}/load"
        post_json(self._http, path, content)


@contextmanager
def restoring_config(http: str, model: str) -> Iterator[LiveConfig]:
    """Provide a model's configuration, and restore it when the block ends.

    Args:
        http: HTTP address of the server, host:port.
        model: Name of the model.

    Raises:
        LoadTestError: As LiveConfig.
    """
    config = LiveConfig(http, model)
    try:
        yield config
    finally:
        config.restore()


def config_with_settings(
    config: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """Return a configuration with other settings.

    Args:
        config: A model's configuration as Triton reports it.
        settings: The settings to run with.
    """
    changed = deepcopy(dict(config))
    (group, *_) = changed["instance_group"]
    changed["instance_group"] = [{**group, "count": settings.instances}]
    batching = changed.pop("dynamic_batching", None) or {}
    changed.pop("scheduling_choice", None)
    policy = {key: batching[key] for key in [QUEUE_POLICY] if key in batching}
    if settings.queue_delay_us is not None:
        changed["dynamic_batching"] = {
            "max_queue_delay_microseconds": settings.queue_delay_us,
            "preferred_batch_size": list(settings.preferred),
            **policy,
        }
    elif policy:
        changed["dynamic_batching"] = {"preferred_batch_size": UNMERGED, **policy}
    return changed


def config_diff(config: Mapping[str, Any], settings: Settings) -> str:
    """Return the difference between a configuration and the one with other settings.

    Args:
        config: A model's configuration as Triton reports it.
        settings: The settings to compare with.

    Returns:
        A unified diff of the tuned keys as JSON.
    """
    before, after = (
        json.dumps({key: each[key] for key in TUNED_KEYS if key in each}, indent=2)
        for each in (config, config_with_settings(config, settings))
    )
    lines = unified_diff(
        before.splitlines(), after.splitlines(), "declared", "tuned", lineterm=""
    )
    return "\n".join(lines)
