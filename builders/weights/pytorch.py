"""State dicts in files of torch.save."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from builders.weights.containers import (
    EMA_KEYS,
    PLAIN_KEYS,
    StateDict,
    find_state_dict,
)
from builders.weights.intake import (
    MAX_LISTED,
    Array,
    CheckpointError,
    open_archive,
    require_count,
    require_expansion,
    require_names,
    require_numbers,
)
from builders.weights.pickles import (
    LEGACY_PICKLES,
    MAX_PICKLE_BYTES,
    scan_pickles,
)

if TYPE_CHECKING:
    import torch

ZIP_START = b"PK\x03\x04"

INTEGER_TYPES = frozenset(
    ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
)
"""torch's integer types that NumPy also has."""


def read_torch(path: Path, key: str = "") -> tuple[str, dict[str, Array], StateDict]:
    """Read the state dict of a torch checkpoint.

    Args:
        path: A file that torch.save wrote.
        key: Key of the wanted state dict; see `find_state_dict`.

    Returns:
        A description of the format, the arrays by the file's names (floating-point ones
        as FP32, integers as they are), and the state dict that has them.

    Raises:
        CheckpointError: If the file is damaged, has more than plain tensors, or has
            tensors that are not dense real numbers.
    """
    kind = _check_container(path)
    state = find_state_dict(_load(path), key)
    tensors = _require_tensors(state.entries)
    # before halves become FP32 and expanded tensors (stride 0) are written out
    require_expansion(sum(4 * t.numel() for t in tensors.values()), path.stat().st_size)
    arrays = {name: _array_from_tensor(tensor) for name, tensor in tensors.items()}
    return f"PyTorch ({kind}), {state.place}", arrays, state


def _check_container(path: Path) -> str:
    """Check checksums and pickles; return the kind of the container."""
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP_START)) != ZIP_START:
                file.seek(0)
                scan_pickles(file, LEGACY_PICKLES)
                return "before PyTorch 1.6"
        with open_archive(path, [zipfile.ZIP_STORED]) as archive:
            _check_archive(archive)
    except UnpicklingError as exc:
        raise _not_plain_error() from exc
    return "zip"


def _check_archive(archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/data.pkl" not in names:
        raise CheckpointError("not a torch checkpoint: its zip archive has no data.pkl")
    # torch looks names up without regard to case
    if len({name.casefold() for name in names}) < len(names):
        raise CheckpointError("two members share a name; save it again")
    # torch does not compare checksums, so that a flipped bit would be served
    try:
        damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError) as exc:
        raise CheckpointError(f"a damaged zip archive ({exc})") from exc
    if damaged is not None:
        raise CheckpointError(
            f"{damaged} is damaged: its checksum (CRC-32) is wrong; copy or download "
            "the file again"
        )
    if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"data.pkl is over the limit of {MAX_PICKLE_BYTES:,} bytes; save only "
            "model.state_dict()"
        )
    scan_pickles(BytesIO(archive.read(f"{root}/data.pkl")))


def _load(path: Path) -> Any:
    import torch

    try:
        # torch warns of its own deprecated functions, which the file made it call
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as exc:
        raise _not_plain_error() from exc
    except Exception as exc:
        # torch calls what the file lists with the file's arguments, so that any
        # exception here is the file's fault
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise CheckpointError(
            f"not a torch checkpoint, or cut short ({reason[:200]})"
        ) from exc


def _not_plain_error() -> CheckpointError:
    return CheckpointError(
        "holds more than plain tensors, or is damaged, and is not loaded, because "
        "unpickling it could run code. Save it again with "
        "torch.save(model.state_dict(), ...) or as .safetensors"
    )


def _require_tensors(state: Mapping[Any, Any]) -> Mapping[str, torch.Tensor]:
    """Return the state dict if it has only dense tensors of numbers, by name."""
    import torch

    require_count(len(state))
    require_names(state)
    others = sorted(k for k, v in state.items() if not isinstance(v, torch.Tensor))
    if others:
        raise CheckpointError(
            f"entries that are not tensors: {', '.join(others[:MAX_LISTED])}; "
            "expected a state dict, bare or under one of "
            f"{', '.join((*PLAIN_KEYS, *EMA_KEYS))}"
        )
    require_numbers({k: _describe(v) for k, v in state.items() if not _is_numeric(v)})
    return state


def _is_numeric(tensor: torch.Tensor) -> bool:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not tensor.is_quantized
        and (tensor.is_floating_point() or dtype in INTEGER_TYPES)
    )


def _describe(tensor: torch.Tensor) -> str:
    layout = str(tensor.layout).removeprefix("torch.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype}, {layout}, on {tensor.device.type}"


def _array_from_tensor(tensor: torch.Tensor) -> Array:
    plain = tensor.detach().resolve_neg()
    array: Array = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array
