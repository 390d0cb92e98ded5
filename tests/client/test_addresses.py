"""Addresses in gRPC's own form: a name, and the name server to ask for it."""

from __future__ import annotations

import pytest

from personserve import Client, InvalidInputError
from personserve._wire.connection import Address


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("dns:///people", "dns:///people:8001"),
        ("dns:///people:9001", "dns:///people:9001"),
        (
            "dns://[::1]:53/people.namespace.svc:9",
            "dns://[::1]:53/people.namespace.svc:9",
        ),
        ("grpc://people", "people:8001"),
        ("grpcs://people:9001", "people:9001"),
    ],
)
def test_names_of_several_servers(text: str, target: str) -> None:
    address = Address.parse(text)
    assert address.is_grpc
    assert address.grpc_target == target
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["dns://people:8001", "dns:///", "dns:///a/b"])
def test_a_name_without_its_three_slashes_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="dns:///personserve:8001"):
        Client(text)
