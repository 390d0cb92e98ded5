"""State dicts in the files of training programs, and the prefixes of wrapped modules.

Training programs save the state dict under a key of their own, often with a second one
of averaged weights (EMA), and wrap the network: `module.` by DataParallel, `_orig_mod.`
by torch.compile, and `model.` by a LightningModule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builders.weights.intake import CheckpointError

PLAIN_KEYS = ("model", "state_dict", "model_state_dict", "net", "network")
"""Keys of the weights (FastReID: `model`; torchreid, Lightning: `state_dict`)."""

EMA_KEYS = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")
"""Keys of averaged weights (timm: `state_dict_ema`; ultralytics: `ema`). They are taken
before the plain ones, as timm does, because they are what such a program evaluates."""

NESTED_KEYS = ("module", "shadow")
"""Further keys inside those: of torch.optim.swa_utils and of EMA classes."""

LIGHTNING_KEY = "pytorch-lightning_version"

MAX_DEPTH = 3
"""Most keys on the way to a state dict."""

LIGHTNING_PREFIX, PARALLEL_PREFIX, COMPILED_PART = "model.", "module.", "_orig_mod"

AVERAGES_COUNT = "n_averaged"
"""Number of averaged steps, an entry of torch's AveragedModel."""


@dataclass(frozen=True)
class StateDict:
    """A state dict in a training program's file.

    Attributes:
        entries: Its entries; values are not checked.
        place: Where it is, for messages.
        note: Which other state dicts the file has, and how to take one; else "".
        is_lightning: Whether PyTorch Lightning wrote the file.
    """

    entries: Mapping[Any, Any]
    place: str
    note: str = ""
    is_lightning: bool = False


def find_state_dict(loaded: Any, key: str = "") -> StateDict:
    """Find the state dict in the content of a file.

    Args:
        loaded: Content of the file.
        key: Key of the wanted state dict, as in `StateDict.place`; "" for averaged
            weights or else the first that has tensors.

    Raises:
        CheckpointError: There is no mapping, or none under this key.
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"expected a state dict, got {type(loaded).__name__}")
    places = dict(_find_places(loaded, (*EMA_KEYS, *PLAIN_KEYS)))
    if key and key not in places:
        raise CheckpointError(
            f"--weights-key {key}: expected one of the file's state dicts, "
            f"{', '.join(places) or 'of which it has none under a key'}"
        )
    is_lightning = LIGHTNING_KEY in loaded
    if not places:
        return StateDict(loaded, "bare state dict", is_lightning=is_lightning)
    place = key or next(iter(places))
    others = ", ".join(repr(name) for name in places if name != place)
    note = (
        f"it has weights under {others} too; to use those, write them to a file of "
        "their own: python -m builders convert IN OUT --weights-key KEY"
    )
    return StateDict(
        places[place],
        f"state dict under {place!r}",
        note if others else "",
        is_lightning,
    )


def _find_places(
    mapping: Mapping[Any, Any], keys: Iterable[str], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield key and content of each state dict that has tensors."""
    for key in keys:
        value = mapping.get(key)
        if not isinstance(value, Mapping) or len(path) >= MAX_DEPTH:
            continue
        inner = list(_find_places(value, (*PLAIN_KEYS, *NESTED_KEYS), (*path, key)))
        if inner:
            yield from inner
        elif any(hasattr(each, "dtype") for each in value.values()):
            yield ".".join((*path, key)), value


def unwrap_names(names: Iterable[str], *, is_lightning: bool = False) -> dict[str, str]:
    """Return names without the prefixes of wrapped modules, by the file's names.

    `model.` is removed where PyTorch Lightning wrote the file, or where all names have
    it. The counter of torch's AveragedModel is left out.

    Args:
        names: Names in the file.
        is_lightning: Whether PyTorch Lightning wrote the file.

    Raises:
        CheckpointError: Two names become the same.
    """
    plain = {name: name for name in names}
    if any(name.startswith(PARALLEL_PREFIX) for name in plain):
        plain.pop(AVERAGES_COUNT, None)
    while True:
        unwrapped = {name: _unwrap(current) for name, current in plain.items()}
        if is_lightning or all(
            each.startswith(LIGHTNING_PREFIX) for each in unwrapped.values()
        ):
            unwrapped = {
                name: _remove_prefix(each, LIGHTNING_PREFIX)
                for name, each in unwrapped.items()
            }
        if unwrapped == plain:
            break
        plain = unwrapped
    _require_different(plain)
    return plain


def _unwrap(name: str) -> str:
    parts = [part for part in name.split(".") if part != COMPILED_PART]
    return _remove_prefix(".".join(parts) or name, PARALLEL_PREFIX)


def _remove_prefix(name: str, prefix: str) -> str:
    return name.removeprefix(prefix) or name


def _require_different(plain: Mapping[str, str]) -> None:
    sources: dict[str, str] = {}
    for name, each in plain.items():
        if each in sources:
            raise CheckpointError(
                f"{each} occurs twice, as {sources[each]} and as {name}; save the "
                "state dict of one network"
            )
        sources[each] = name
