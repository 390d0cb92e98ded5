"""Every client and transport gives the same answers and the same errors.

Each test runs for the sync and the async client, over gRPC and HTTP, on the wire and in
shared memory.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from builders.serve.tritonserver import TritonServer
from personserve import (
    AsyncClient,
    Client,
    InvalidInputError,
    ModelUnavailableError,
    RequestTimeoutError,
    Retry,
    ServerUnavailableError,
)

BOXES = np.float32([[10, 20, 200, 400], [150, 0, 400, 512], [0, 0, 512, 512]])

TRANSPORTS = [
    (kind, scheme, memory)
    for kind in (Client, AsyncClient)
    for scheme in ("grpc", "http")
    for memory in (None, "system")
]


class Blocking:
    """An AsyncClient with a loop of its own, called as if it were a Client."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = make()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **how: Any) -> Any:
            made = method(*args, **how)
            if not inspect.iscoroutine(made):
                made = _collect(made)
            return asyncio.run_coroutine_threadsafe(made, self._loop).result()

        return call

    def stop(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _collect(stream: Any) -> list[Any]:
    return [each async for each in stream]


def _address(server: TritonServer, scheme: str) -> str:
    grpc = scheme == "grpc"
    return f"{scheme}://{server.grpc_address if grpc else server.http_address}"


@pytest.fixture(
    scope="module",
    params=TRANSPORTS,
    ids=lambda each: f"{each[0].__name__}-{each[1]}-{each[2] or 'wire'}",
)
def anyone(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Any]:
    kind, scheme, memory = request.param
    address = _address(server, scheme)
    if kind is Client:
        with Client(address, shared_memory=memory, timeout_s=60) as client:
            yield client
        return
    client = Blocking(lambda: AsyncClient(address, shared_memory=memory, timeout_s=60))
    yield client
    client.stop()


def test_answers_are_the_same(
    anyone: Any, client: Client, photograph: np.ndarray
) -> None:
    expected = client.attributes(photograph, BOXES)
    for side in ("server", "client", "auto"):
        people = anyone.attributes(photograph, BOXES, crop_on=side)
        np.testing.assert_array_equal(people.embeddings, expected.embeddings)
        np.testing.assert_array_equal(
            people.female_probabilities, expected.female_probabilities
        )
        assert [p.box for p in people] == [p.box for p in expected]
    crops = [photograph[:400, :190], photograph]
    np.testing.assert_array_equal(
        anyone.attributes_of_crops(crops).embeddings,
        client.attributes_of_crops(crops).embeddings,
    )
    related = anyone.kinship_matrix(crops, crops[:1]).probabilities
    assert related.shape == (2, 1)
    np.testing.assert_array_equal(
        related, client.kinship_matrix(crops, crops[:1]).probabilities
    )
    assert anyone.kinship(crops[0], crops[1]).probability == pytest.approx(
        client.kinship(crops[0], crops[1]).probability
    )
    (seen,) = anyone.classify([photograph], count=3)
    assert seen.classes == client.classify([photograph], count=3)[0].classes
    assert [c.probability for c in seen.classes] == sorted(
        (c.probability for c in seen.classes), reverse=True
    )


def test_a_raw_frame_of_one_pixel(anyone: Any) -> None:
    pixel = np.array([[[10, 20, 90]]], np.uint8)
    expected = anyone.attributes_of_crops([pixel])
    assert len(expected) == 1
    for side in ("server", "client"):
        people = anyone.attributes(pixel, [[0, 0, 1, 1]], crop_on=side)
        np.testing.assert_array_equal(people.embeddings, expected.embeddings)


def test_a_video_is_answered_in_order(anyone: Any, photograph: np.ndarray) -> None:
    counts = [2, 0, 3, 1, 1, 3, 0, 2]
    taken = 0

    def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal taken
        for count in counts:
            taken += 1
            yield photograph, BOXES[:count]

    answers = list(anyone.attributes_stream(frames(), in_flight=3))
    assert [len(people) for people in answers] == counts
    alone = anyone.attributes(photograph, BOXES[:1])
    np.testing.assert_array_equal(answers[3].embeddings, alone.embeddings)


def test_a_bad_frame_of_a_video_is_raised_in_its_turn(
    anyone: Any, photograph: np.ndarray
) -> None:
    outside = np.float32([[600, 0, 700, 50]])
    frames = [(photograph, BOXES[:1]), (photograph, outside), (photograph, BOXES)]
    with pytest.raises(InvalidInputError, match=r"box 0 .* outside the frame"):
        list(anyone.attributes_stream(frames, in_flight=3))


def test_what_the_server_says_of_itself(anyone: Any, client: Client) -> None:
    assert anyone.ready()
    assert anyone.ready("person_gender")
    assert not anyone.ready("nobody")
    assert anyone.models() == client.models()
    assert {m.name for m in anyone.models() if m.ready} >= {"person_attributes"}
    assert anyone.describe("person_attributes_crops") == client.describe(
        "person_attributes_crops"
    )
    crops = np.zeros((2, 224, 224, 3), np.uint8)
    outputs = anyone.infer("person_gender", {"crops": crops})
    probability = outputs["female_probability"]
    assert (probability.shape, probability.dtype) == ((2, 1), np.float32)


def test_errors_are_the_same(anyone: Any, photograph: np.ndarray) -> None:
    with pytest.raises(ModelUnavailableError, match="nobody"):
        anyone.describe("nobody")
    outside = [[0, 0, 5, 5], [600, 0, 700, 50]]
    for side in ("server", "client"):
        with pytest.raises(InvalidInputError, match=r"box 1 \(600, 0, 700, 50\)"):
            anyone.attributes(photograph, outside, crop_on=side)
    with pytest.raises(InvalidInputError, match="do not decode"):
        anyone.attributes(b"no picture", BOXES)
    with pytest.raises(InvalidInputError, match="expected server, client or auto"):
        anyone.attributes(photograph, BOXES, crop_on="both")
    wrong = np.zeros((1, 10, 10, 3), np.uint8)
    with pytest.raises(InvalidInputError):
        anyone.infer("person_gender", {"crops": wrong})
    with pytest.raises(RequestTimeoutError):
        anyone.attributes(photograph, np.tile(BOXES, (20, 1)), timeout_s=0.01)
    assert len(anyone.attributes(photograph, BOXES)) == 3


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_gzip_changes_nothing(
    server: TritonServer, client: Client, photograph: np.ndarray, scheme: str
) -> None:
    with Client(_address(server, scheme), compression="gzip") as packed:
        np.testing.assert_array_equal(
            packed.attributes(photograph, BOXES).embeddings,
            client.attributes(photograph, BOXES).embeddings,
        )


def test_stand_ins_of_kinship_are_named(client: Client, photograph: np.ndarray) -> None:
    answer = client.kinship_matrix([photograph], [photograph[:200], photograph])
    assert answer.stand_in_weights == ("kinship_embedding", "kinship_pair")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_there(scheme: str) -> None:
    with Client(f"{scheme}://127.0.0.1:9", retry=Retry(attempts=1)) as client:
        assert not client.ready()
        with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9.*serve"):
            client.models()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(kind).items()
            if not name.startswith("_") or name == "__init__"
        }

    assert methods(Client) == methods(AsyncClient)
