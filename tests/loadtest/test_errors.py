"""A user's mistake is one line and exit code 1; a bug stays a traceback."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from builders.repository.layout import ROOT
from loadtest import __main__ as command
from loadtest.errors import LoadTestError
from loadtest.options import parse_counts
from loadtest.server import get_config, post_json, sample_utilisation

NO_SERVER = ("--grpc", "127.0.0.1:9", "--http", "127.0.0.1:9")


class _Refusing(BaseHTTPRequestHandler):
    """Answers every request as Triton answers one for a model that it does not know."""

    def _refuse(self) -> None:
        body = b'{"error":"Request for unknown model"}'
        self.send_response(400)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _refuse  # noqa: N815 - names of the base class

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of an HTTP server that knows no model."""
    with HTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command that fails, and returns the one line that it ends with."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["loadtest", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            command.run()
        printed = capsys.readouterr()
        assert exit_info.value.code == 1, printed.err
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("perf", "person_gender", *NO_SERVER),
        ("tune", "person_gender", "--goal", "p99_ms=5", *NO_SERVER),
        ("compare", *NO_SERVER),
        ("overhead", *NO_SERVER),
        ("transfer", *NO_SERVER),
        ("soak", *NO_SERVER),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_server_is_one_line(
    fail: Callable[..., str], arguments: tuple[str, ...]
) -> None:
    line = fail(*arguments)
    assert "127.0.0.1:9" in line
    assert "python -m builders serve" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("perf", "m", "--people", "a"), "--people 'a': expected whole numbers"),
        (("perf", "m", "--concurrency", "0"), "--concurrency '0': expected whole"),
        (("perf", "m", "--protocols", "udp"), "--protocols 'udp': expected one or"),
        (("perf", "m", "--shared-memory", "x"), "--shared-memory 'x': expected one"),
        (("perf", "m", "--against", "none.json"), "cannot read none.json"),
        (("tune", "m", "--goal", "p99_ms=5", "--instances", "a"), "--instances 'a'"),
        (("tune", "m", "--goal", "fast"), "expected p99_ms=LIMIT"),
        (("overhead", "--people", "1,,2"), "--people '1,,2': expected whole numbers"),
        (("compare", "--concurrency", "x"), "--concurrency 'x': expected whole"),
        (
            ("compare", *("--server", "a=http://b:1/m") * 2),
            "--server a: this name is there twice",
        ),
        (("soak", "--video", "none.avi"), "none.avi: OpenCV reads no frames"),
    ],
)
def test_a_wrong_value_is_one_line(
    fail: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in fail(*arguments)


def test_an_unknown_model_is_one_line(fail: Callable[..., str], refusing: str) -> None:
    line = fail("tune", "unheard_of", "--goal", "p99_ms=5", "--http", refusing)
    assert "unheard_of" in line
    assert "unknown model" in line


def test_a_server_s_refusal_is_told(refusing: str) -> None:
    with pytest.raises(LoadTestError, match=r"HTTP 400.*unknown model"):
        get_config(refusing, "unheard_of")
    with pytest.raises(LoadTestError, match="HTTP 400"):
        post_json(refusing, "v2/repository/models/unheard_of/load", {})


def test_unreachable_metrics_are_told() -> None:
    with (
        pytest.raises(LoadTestError, match=r"no metrics at http://127\.0\.0\.1:9"),
        sample_utilisation("127.0.0.1:9"),
    ):
        pass
    with sample_utilisation("") as samples:
        assert samples == {}


def test_counts_are_positive() -> None:
    assert parse_counts("1,8,32", "--people") == [1, 8, 32]
    for text in ("", "1,-2", "1.5", "0"):
        with pytest.raises(LoadTestError, match="--people"):
            parse_counts(text, "--people")


def test_the_command_ends_with_the_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "perf", "m", "--people", "a"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --people 'a': expected whole numbers")
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(command, "app", fail)
    with pytest.raises(KeyError):
        command.run()
