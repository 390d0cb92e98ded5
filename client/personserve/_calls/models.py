"""Calls about models, and inferences whose answers fit a model's description."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar
from uuid import uuid4

from personserve._answers import max_reply_bytes
from personserve._descriptions import (
    DescriptionCache,
    ModelChangedError,
    is_prepared_alike,
)
from personserve._errors import (
    IncompatibleServerError,
    InvalidInputError,
    ModelLoadingError,
    ModelUnavailableError,
    PersonServeError,
)
from personserve._retry import Call
from personserve._types import Array
from personserve._wire.requests import (
    FRAME_INPUTS,
    DescribeModel,
    Infer,
    ListModels,
    ModelDescription,
    ModelState,
    Ready,
)

T = TypeVar("T")

Use = Literal["frames", "crops"]


@dataclass
class ModelCalls:
    """Calls about models, and a cache of the server's model descriptions.

    Attributes:
        choose_endpoint: Returns the address that the next call should use.
        descriptions: The cache.
    """

    choose_endpoint: Callable[[], str] = str
    descriptions: DescriptionCache = field(default_factory=DescriptionCache)

    def describe(self, model: str, endpoint: str = "") -> Call[ModelDescription]:
        """Implement Client.describe.

        Args:
            model: See Client.describe.
            endpoint: Address to ask first; empty for any.

        Returns:
            The call.
        """
        requested_at_s = time.monotonic()
        description: ModelDescription = yield DescribeModel(model, endpoint)
        self.descriptions.put(description, requested_at_s)
        return description

    def list_states(self) -> Call[tuple[ModelState, ...]]:
        """Implement Client.models."""
        states: tuple[ModelState, ...] = yield ListModels()
        return tuple(sorted(states, key=lambda state: state.name))

    def list_for_frames(self) -> Call[tuple[ModelDescription, ...]]:
        """Implement Client.frame_models."""
        models = yield from self._describe_ready()
        return tuple(model for model in models if model.takes_frames)

    def ready(self, model: str | None) -> Call[bool]:
        """Implement Client.ready.

        Args:
            model: See Client.ready.

        Returns:
            The call.
        """
        return bool((yield Ready(model)))

    def describe_cached(
        self, model: str, endpoint: str | None = None
    ) -> Call[ModelDescription]:
        """Describe a model, from the cache where it has the description.

        Args:
            model: Name of the model.
            endpoint: Address of the server, None for the one of the next call.

        Returns:
            The call.
        """
        if endpoint is None:
            endpoint = self.choose_endpoint()
        description = self.descriptions.get(endpoint, model)
        if description is None:
            description = yield from self.describe(model, endpoint)
        return description

    def describe_for(
        self, use: Use, name: str, endpoint: str
    ) -> Call[ModelDescription]:
        """Describe a model that takes frames or crops; errors list those that do.

        Args:
            use: What is sent to it. Crops are also sent to the networks of a model for
                frames.
            name: Name of the model.
            endpoint: Address of the server.

        Returns:
            The call.
        """
        error: PersonServeError
        try:
            model = yield from self.describe_cached(name, endpoint)
        except ModelLoadingError:
            raise
        except ModelUnavailableError as exc:
            error = exc
        else:
            if _takes(model, use):
                return model
            names = {tensor.name for tensor in model.inputs}
            if "boxes" in names and (missing := FRAME_INPUTS - names):
                raise model.lacks(f"input {min(missing)}")
            error = InvalidInputError(
                f"expected a model that takes {use}, got {name} with the inputs "
                f"{', '.join(sorted(names))}",
                model=name,
            )
        try:
            models = yield from self._describe_ready()
        except PersonServeError:
            raise error from None  # it says what is wrong without the list, too
        alternatives = [each.name for each in models if _takes(each, use)]
        raise type(error)(
            f"{error.args[0]}; models of the server that take {use}: "
            f"{', '.join(alternatives) or 'none'}",
            model=name,
        ) from error

    def infer_checked(
        self, model: ModelDescription, inputs: Mapping[str, Array], rows: int
    ) -> Call[tuple[ModelDescription, Mapping[str, Array]]]:
        """Infer, and return the description that belongs to the answer with it.

        Args:
            model: The description that the inputs were prepared for.
            inputs: Input tensors by name.
            rows: Number of rows of each output.

        Returns:
            The call.
        """
        outputs = yield Infer(
            model.name,
            inputs,
            uuid4().hex,
            max_reply_bytes=max_reply_bytes(model, rows),
            endpoint=model.endpoint,
        )
        version, endpoint = outputs.model_version, outputs.endpoint
        current = self.descriptions.get(endpoint, model.name)
        if current is None or not self.descriptions.has_version(
            endpoint, model.name, version
        ):
            current = yield from self.describe(model.name, endpoint)
            self.descriptions.has_version(endpoint, model.name, version)
        if current.endpoint != endpoint:
            raise ModelChangedError(
                f"{endpoint} has answered, and no longer says what its model is",
                model=model.name,
            )
        if current is not model and not is_prepared_alike(current, model):
            raise ModelChangedError(
                "the model was replaced by one with other inputs during the call",
                model=model.name,
            )
        return current, outputs

    def repeat_if_changed(
        self, models: Sequence[str], attempt: Callable[[], Call[T]]
    ) -> Call[T]:
        """Run an attempt, and repeat it once if it failed on an old description.

        Args:
            models: Names of the models that it uses.
            attempt: Returns the call of an attempt.

        Returns:
            The call.
        """
        start_s = time.monotonic()
        try:
            return (yield from attempt())
        except ModelChangedError:
            pass
        except (IncompatibleServerError, InvalidInputError) as exc:
            if exc.model is None or not (
                yield from self._have_changed(models, start_s)
            ):
                raise
        return (yield from attempt())

    def _have_changed(self, models: Sequence[str], before_s: float) -> Call[bool]:
        """Request cached descriptions again; return whether a usable one differs."""
        changed = False
        for old in list(self.descriptions.requested_before(models, before_s)):
            try:
                latest = yield from self.describe(old.name, old.endpoint)
            except PersonServeError:
                continue  # the original error is the more useful one
            if latest.endpoint != old.endpoint:
                continue
            changed |= latest != old and not (old.stateful or latest.stateful)
        return changed

    def _describe_ready(self) -> Call[list[ModelDescription]]:
        """Describe all models that are ready, in the order of their names."""
        described = []
        for state in (yield from self.list_states()):
            if state.ready:
                try:
                    described.append((yield from self.describe(state.name)))
                except ModelUnavailableError:
                    continue  # unloaded since it was listed
        return described


def _takes(model: ModelDescription, use: Use) -> bool:
    return model.takes_frames or (use == "crops" and model.takes_crops)
