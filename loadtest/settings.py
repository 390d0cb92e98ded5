"""How a running server executes a model, and other ways tried on it."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from loadtest.server import got


class TuneError(RuntimeError):
    """What cannot be tuned; says what to do."""


@dataclass(frozen=True)
class Settings:
    """`queue_delay_us` None: requests are not merged."""

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


@contextmanager
def tuned(
    http: str, model: str
) -> Iterator[tuple[Settings, Callable[[Settings], None], bool]]:
    """The declared settings, how others are used, and whether it runs on the CPU; the
    declared ones are in use again afterwards.
    """
    config = _asked(http, f"models/{model}/config")
    if not config.get("instance_group") or "ensemble_scheduling" in config:
        raise TuneError(f"{model} is an ensemble: tune the models that it joins")
    if config["max_batch_size"] < 1:
        raise TuneError(f"{model} does not batch; its instances are in the declaration")
    merging = config.get("dynamic_batching")
    declared = Settings(
        sum(int(group["count"]) for group in config["instance_group"]),
        None
        if merging is None
        else int(merging.get("max_queue_delay_microseconds", 0)),
        tuple(merging.get("preferred_batch_size", ())) if merging else (),
    )

    def load(how: Mapping[str, Any]) -> None:
        content = {"parameters": {"config": json.dumps(how)}}
        _asked(http, f"repository/models/{model}/load", content)

    is_cpu = config["instance_group"][0]["kind"] == "KIND_CPU"
    try:
        yield declared, lambda settings: load(_config(config, settings)), is_cpu
    finally:
        # as a configuration, too: files that did not change are not loaded again
        load(config)


def _config(config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    changed = deepcopy(dict(config))
    (group, *_) = changed["instance_group"]
    changed["instance_group"] = [{**group, "count": settings.instances}]
    changed.pop("dynamic_batching", None)
    changed.pop("scheduling_choice", None)
    if settings.queue_delay_us is not None:
        changed["dynamic_batching"] = {
            "max_queue_delay_microseconds": settings.queue_delay_us,
            "preferred_batch_size": list(settings.preferred),
        }
    return changed


def _asked(http: str, path: str, content: object = None) -> dict[str, Any]:
    """Triton's HTTP endpoint. Raises TuneError."""
    try:
        return got(http, f"v2/{path}", content)
    except urllib.error.HTTPError as exc:
        raise TuneError(f"{path}: {exc.read().decode()[:500]}") from exc
    except OSError as exc:
        raise TuneError(f"no Triton server answers at http://{http}: {exc}") from exc
