"""A cache of model descriptions that follows the server's models.

Each server is described by itself. A description is used for at most
DESCRIPTION_TTL_S after it was requested, and not
after an answer of another version of the model. An answer that contradicts a cached
description makes the calls request it again (see _calls).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from personserve._defaults import FRAME_MODEL
from personserve._errors import IncompatibleServerError
from personserve._wire.requests import ModelDescription

CROPS_SUFFIX = "_crops"
"""Ending of the name of the model that takes crops in place of a model's frames."""

CROPS_MODEL = FRAME_MODEL + CROPS_SUFFIX

DESCRIPTION_TTL_S = 10.0
"""Time for which a description is used without being requested again, in seconds."""

PREPARATION = (".interpolation", ".shorter_edge", ".order")
"""Endings of parameters that say how the client prepares an input."""


class ModelChangedError(IncompatibleServerError):
    """The model was replaced after its inputs were prepared."""


@dataclass
class _Entry:
    """A description, when it was requested, and the version that answered first."""

    description: ModelDescription
    requested_at_s: float
    version: str = ""


@dataclass
class DescriptionCache:
    """Descriptions by endpoint and model.

    The servers of one client can differ while models are being replaced: in labels,
    limits and weights.
    """

    _entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)

    def get(self, endpoint: str, model: str) -> ModelDescription | None:
        """Return the description of a model.

        Args:
            endpoint: Address of the server.
            model: Name of the model.

        Returns:
            The description, or None if it is missing or too old.
        """
        entry = self._entries.get((endpoint, model))
        if entry is None or _is_expired(entry):
            return None
        return entry.description

    def put(self, description: ModelDescription, requested_at_s: float) -> None:
        """Store a description.

        Args:
            description: The description, with its endpoint.
            requested_at_s: When it was requested (time.monotonic).
        """
        key = (description.endpoint, description.name)
        self._entries[key] = _Entry(description, requested_at_s)

    def has_version(self, endpoint: str, model: str, version: str) -> bool:
        """Return whether an answer is of the version that the description belongs to.

        The first answer after a description determines that version.

        Args:
            endpoint: Address of the server.
            model: Name of the model.
            version: Version of the model that answered; empty if unknown.

        Returns:
            False if the answer is of another version.
        """
        entry = self._entries.get((endpoint, model))
        if entry is None or not version:
            return True
        if not entry.version:
            entry.version = version
        return entry.version == version

    def requested_before(
        self, models: Iterable[str], time_s: float
    ) -> Iterator[ModelDescription]:
        """Yield the descriptions that were requested before a time.

        Args:
            models: Names of models.
            time_s: A time (time.monotonic).

        Yields:
            The descriptions of these models on all endpoints.
        """
        names = set(models)
        for (_, model), entry in list(self._entries.items()):
            if model in names and entry.requested_at_s < time_s:
                yield entry.description


def is_prepared_alike(first: ModelDescription, second: ModelDescription) -> bool:
    """Return whether two descriptions ask for the same inputs.

    Args:
        first: A description.
        second: Another description of the same model.

    Returns:
        True if inputs that were prepared for one are right for the other.
    """
    return tuple(first.inputs) == tuple(second.inputs) and (
        _preparation(first) == _preparation(second)
    )


def _preparation(description: ModelDescription) -> dict[str, str]:
    parameters = description.parameters.items()
    return {key: value for key, value in parameters if key.endswith(PREPARATION)}


def _is_expired(entry: _Entry) -> bool:
    return time.monotonic() - entry.requested_at_s > DESCRIPTION_TTL_S
