"""Tests of your own code without a server, by MockTransport.

Run:
    python client/examples/mock_transport.py        # no server, no GPU, no network

`count_by_gender` is the code under test. The functions below it are ordinary tests,
which pytest would collect from a file of yours.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from personserve import Client, Infer, MockTransport, RequestTimeoutError

FRAME = np.zeros((480, 640, 3), np.uint8)
BOXES = np.array([[10, 10, 90, 300], [200, 20, 280, 310], [400, 5, 470, 290]])


def count_by_gender(
    client: Client, frame: np.ndarray, boxes: np.ndarray
) -> Counter[str]:
    """Count people by gender; a frame that takes too long counts as empty."""
    try:
        people = client.attributes(frame, boxes, timeout_s=0.5)
    except RequestTimeoutError:
        return Counter()
    return Counter(person.gender.label for person in people)


def test_people_are_counted_by_gender() -> None:
    """Pass the outputs as arrays, one row for each box."""
    answers = {
        "person_attributes": {
            "female_probability": np.array([[0.9], [0.2], [0.8]], np.float32),
            "embedding": np.eye(3, 512, dtype=np.float32),
        }
    }
    transport = MockTransport(answers)
    with Client(transport=transport) as client:
        assert count_by_gender(client, FRAME, BOXES) == {"female": 2, "male": 1}
    request = transport.requests[-1]
    assert isinstance(request, Infer)
    np.testing.assert_array_equal(request.inputs["boxes"], BOXES)
    assert transport.closed


def test_a_slow_server_counts_as_an_empty_frame() -> None:
    """Pass a function that raises an error."""

    def time_out(request: Infer) -> dict[str, np.ndarray]:
        raise RequestTimeoutError("too slow", model=request.model)

    with Client(transport=MockTransport(time_out)) as client:
        assert count_by_gender(client, FRAME, BOXES) == Counter()


def test_any_number_of_people() -> None:
    """Pass nothing: people get random values, the same each time."""
    with Client(transport=MockTransport()) as client:
        first = count_by_gender(client, FRAME, BOXES)
        assert first.total() == len(BOXES)
        assert count_by_gender(client, FRAME, BOXES) == first


if __name__ == "__main__":
    test_people_are_counted_by_gender()
    test_a_slow_server_counts_as_an_empty_frame()
    test_any_number_of_people()
    print("3 tests passed")
