"""Options of the command line: version, help, completion, and where options go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import personserve
from personserve import MockTransport
from tests.client.conftest import Run, write_image, write_video


def test_version_and_short_help(run: Run) -> None:
    assert run("--version").out == f"personserve {personserve.__version__}\n"
    long, short = run("attributes", "--help"), run("attributes", "-h")
    assert long.out == short.out
    assert "--embeddings" in short.out
    assert "private network" in " ".join(short.out.split())
    assert run("-h").out == run("--help").out


def test_completion_can_be_installed_and_completes_commands(run: Run) -> None:
    assert "--install-completion" in run("--help").out
    command = [sys.executable, "-m", "personserve"]
    environment = {
        "_PERSONSERVE_COMPLETE": "complete_bash",
        "COMP_WORDS": "personserve se",
        "COMP_CWORD": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.split() == ["search"], done.stderr


def test_json_goes_before_or_after_the_command(run: Run) -> None:
    before, after = run("--json", "check"), run("check", "--json")
    assert json.loads(before.out) == json.loads(after.out)
    assert run("check").out.startswith("ready")  # it does not stay


def test_other_options_go_after_the_command_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personserve.cli.options import OPTIONS

    monkeypatch.setenv("PERSONSERVE_SERVER", "grpc://environment:1")
    run("--timeout-s", "7", "check")
    assert (OPTIONS.servers, OPTIONS.timeout_s) == (["grpc://environment:1"], 7)
    run("--server", "grpc://before:1", "check", "--shared-memory", "--timeout-s", "9")
    assert (OPTIONS.servers, OPTIONS.timeout_s) == (["grpc://before:1"], 9)
    assert OPTIONS.shared_memory
    run("check", "--server", "grpc://a:1", "--server", "grpc://b:1")
    assert OPTIONS.servers == ["grpc://a:1", "grpc://b:1"]
    assert not OPTIONS.shared_memory


def test_every_command_takes_the_options_after_it(run: Run) -> None:
    for command in ("check", "models", "attributes", "embed", "search", "kinship"):
        assert "Options before or after the command" in run(command, "-h").out


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    outcome = run("attribute", "x.jpg")
    assert outcome.code == 2
    assert "attributes" in outcome.err
    assert run("attributes", "v.avi", "--frames", "0").code == 2


def test_an_error_is_one_message(run: Run, transport: MockTransport) -> None:
    transport._models.clear()
    outcome = run("check")
    assert outcome.code == 1
    assert outcome.err.startswith("error: the server runs, but does not serve")
    assert "Traceback" not in outcome.err


def test_progress_is_shown_on_a_terminal_only(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personserve.cli import options

    write_image(tmp_path / "s" / "a.png")
    write_image(tmp_path / "s" / "b.png")
    write_video(tmp_path / "v.avi", 2, 10)
    waits = {
        ("check",): "asking the server ...",
        ("models",): "asking the server ...",
        ("attributes", "s/a.png"): "analysing ...",
        ("attributes", "s"): "analysing",
        ("attributes", "v.avi"): "opening v.avi ...",
        ("embed", "s"): "embedding",
        ("search", "gallery.npz", "s/a.png"): "searching ...",
        ("kinship", "s/a.png", "s/b.png"): "comparing ...",
        ("bench", "--seconds", "0.1"): "measuring for 0.1 s ...",
    }
    for command, text in waits.items():
        assert text not in run(*command).out
    monkeypatch.setattr(options.console, "_force_terminal", True)
    monkeypatch.setattr(options.console, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    for command, text in waits.items():
        assert text in run(*command).out, command
        assert text not in run(*command, "--json").out
