"""Raw HTTP requests of Triton's protocol: valid ones, and mutations of them.

A body of many one-byte chunks is left out: it ends Triton before 25.07 (SECURITY.md).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.image_corpus import Mutator
from tests.request_corpus import make_request, mutate_bytes
from tests.request_mutations import (
    NAMES,
    NUMBERS,
    REGIONS,
    TYPES,
    mutate_frame,
    pick,
    put_image,
)

MAX_CHUNKS = 50
LENGTH_HEADER = "Inference-Header-Content-Length"
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X" * 300, "")
PATHS = (
    "/v2",
    "/v2/health/ready",
    "/v2/models/person_gender/config",
    "/v2/models/person_gender/stats",
    "/v2/models/%2e%2e%2f/infer",
    "/v2/models/person_gender/versions/99999999999999999999/infer",
    "/v2/models/person_gender/generate",
    "/v2/models/person_gender/generate_stream",
    "/v2/repository/index",
    "/v2/repository/models/x/load",
    "/v2/systemsharedmemory/region/x/register",
    "/v2/cudasharedmemory/status",
    "/v2/trace/setting",
    "/v2/logging",
    "/" + "a" * 9000,
    "/v2/models/\x00/infer",
)
ODD: Sequence[Any] = (*NUMBERS, *NAMES, None, True, [], {}, 1.5, [[[[[]]]]], 1e308)


@dataclass(frozen=True)
class Exchange:
    """Raw bytes for a connection.

    Attributes:
        kind: What was mutated, for reports.
        pieces: Bytes that are sent one after the other.
        closes: Whether the connection is closed without reading an answer.
    """

    kind: str
    pieces: tuple[bytes, ...]
    closes: bool = False


class ExchangeMutator:
    """Mutated HTTP requests; an index gives the same bytes in every process.

    Args:
        models: Names of the models that requests are for.
        seed: Seed of the mutations.
    """

    def __init__(self, models: Sequence[str], seed: int) -> None:
        self._requests = [make_request(name) for name in models]
        self._images = Mutator(seed)
        self._seed = seed

    def make(self, index: int) -> Exchange:
        """Return the exchange of an index."""
        rng = np.random.default_rng((self._seed, index, 2))
        message = deepcopy(pick(rng, self._requests))
        kinds = []
        if rng.random() < 0.15:
            kinds.append("image")
            put_image(message, self._images.make(index)[1])
        elif rng.random() < 0.1:
            kinds.append("frame")
            mutate_frame(message, rng)
        head, data = _head_and_data(message)
        if rng.random() < 0.6:
            kinds.append("json")
            for _ in range(int(rng.integers(1, 4))):
                _mutate_json(head, rng)
        text = json.dumps(head).encode()
        if rng.random() < 0.2:
            kinds.append("text")
            text = mutate_bytes(text, rng)
        headers = {"Host": "x", LENGTH_HEADER: str(len(text))}
        body = text + data[: int(rng.choice((0, len(data) // 2, len(data))))]
        path, method = f"/v2/models/{message.model_name}/infer", "POST"
        if rng.random() < 0.2:
            kinds.append("path")
            path, method = pick(rng, PATHS), pick(rng, METHODS)
        if rng.random() < 0.3:
            kinds.append("headers")
            body = _mutate_headers(headers, body, rng)
        return _frame(kinds, (method, path), headers, body, rng)


def _head_and_data(message: Any) -> tuple[dict[str, Any], bytes]:
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(data)},
        }
        for tensor, data in zip(message.inputs, message.raw_input_contents, strict=True)
    ]
    head = {"id": "fuzz", "inputs": inputs, "parameters": {"binary_data_output": True}}
    return head, b"".join(message.raw_input_contents)


def _mutate_json(head: dict[str, Any], rng: np.random.Generator) -> None:
    """Change, delete or add one value at a random place."""
    node: Any = head
    while rng.random() < 0.75:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        inner = [key for key in keys if isinstance(node[key], dict | list)]
        if not inner:
            break
        node = node[pick(rng, inner)]
    value = deepcopy(pick(rng, (*ODD, *TYPES, *REGIONS)))
    if isinstance(node, list):
        at = int(rng.integers(len(node) + 1))
        node[at : at + int(rng.integers(2))] = [value] * pick(rng, (0, 1, 1, 1, 500))
        return
    keys = [
        *node,
        "outputs",
        "data",
        "shared_memory_region",
        "classification",
        "x" * 99,
    ]
    key = pick(rng, keys)
    if key in node and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = value


def _mutate_headers(
    headers: dict[str, str], body: bytes, rng: np.random.Generator
) -> bytes:
    """Change a header; return the body, which may be compressed for it."""
    choice = int(rng.integers(7))
    if choice == 0:
        headers[LENGTH_HEADER] = str(pick(rng, (*NUMBERS, "", "x", "1e3", "9" * 40)))
    elif choice == 1:
        del headers[LENGTH_HEADER]
    elif choice == 2:
        headers["Content-Encoding"] = "gzip"
        bomb = gzip.compress(bytes(4 << 20))
        body = pick(rng, (gzip.compress(body), body, gzip.compress(body)[:-9], bomb))
    elif choice == 3:
        headers["Content-Encoding"] = pick(rng, ("deflate", "br", "zstd", "x" * 99))
        body = zlib.compress(body)
    elif choice == 4:
        headers["Accept-Encoding"] = pick(rng, ("gzip", "deflate", "*", "x" * 5000))
    elif choice == 5:
        headers["X" * 300] = "y" * int(rng.integers(1, 20_000))
    else:
        headers["Expect"] = "100-continue"
    return body


def _frame(
    kinds: list[str],
    target: tuple[str, str],
    headers: dict[str, str],
    body: bytes,
    rng: np.random.Generator,
) -> Exchange:
    """Add the length or chunks of the body, and cut the request at random."""
    choice = rng.random()
    closes = False
    if choice < 0.7:
        headers["Content-Length"] = str(len(body))
    elif choice < 0.85:
        kinds.append("chunks")
        headers["Transfer-Encoding"] = "chunked"
        body = _split(body, rng)
    else:
        kinds.append("length")
        numbers = (len(body) + 999, len(body) - 9, *NUMBERS)
        headers["Content-Length"] = str(pick(rng, (*numbers, "x", "")))
        closes = True
    lines = [f"{target[0]} {target[1]} HTTP/1.{pick(rng, (1, 1, 1, 0, 9))}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if rng.random() < 0.05:
        kinds.append("head")
        head, closes = mutate_bytes(head, rng), True
    if rng.random() < 0.05:
        kinds.append("cut")
        body, closes = body[: int(rng.integers(len(body) + 1))], True
    return Exchange("+".join(kinds) or "valid", (head, body), closes)


def _split(body: bytes, rng: np.random.Generator) -> bytes:
    size = max(int(rng.integers(100, 20_000)), len(body) // MAX_CHUNKS)
    pieces = [
        b"%x\r\n%b\r\n" % (len(body[i : i + size]), body[i : i + size])
        for i in range(0, len(body), size)
    ]
    bad = (b"FFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"zz\r\n", b"0\r\n\r\n", b"\r\n")
    if rng.random() < 0.3:
        pieces.insert(int(rng.integers(len(pieces) + 1)), pick(rng, bad))
    return b"".join(pieces) + b"0\r\n\r\n"
