"""Addresses and proxies of HTTP connections."""

from __future__ import annotations

import pytest

from personserve import Client, InvalidInputError
from tests.client.hostile_servers import HttpServer, config_of, http

VARIABLES = ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def _respond(path: str, _: bytes) -> bytes:
    return http(config_of("/" + path.partition("//")[2].partition("/")[2]))


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer(_respond) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        with Client("http://triton.invalid:8000") as client:
            assert client.describe("m").name == "m"
        assert proxy.paths == ["http://triton.invalid:8000/v2/models/m/config"]
        monkeypatch.setenv("NO_PROXY", "triton.invalid")
        with Client("http://triton.invalid:8000") as client:
            assert not client.ready()
        assert len(proxy.paths) == 1


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://"])
def test_other_proxies_are_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidInputError, match="expected http:// or https://"):
        Client("http://triton.invalid:8000")


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="label too long"):
        Client(f"http://{'a' * 70}:8000")
