"""Images, folders, patterns, addresses, videos and cameras as arguments."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from personserve import InvalidInputError, ServerUnavailableError
from personserve._errors import error_from_status
from personserve.cli import downloads
from personserve.cli.sources import Kind, resolve_images, resolve_sources
from tests.client.conftest import Run, write_image, write_video


class _Pages(BaseHTTPRequestHandler):
    """A web server of one image, and of what a client has to refuse."""

    image = b""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name in {"a.png", "untyped", "large.png"}:
            kind = "image/png" if name.endswith(".png") else "application/octet-stream"
            self._send(kind, self.image)
        elif name == "moved":
            self._redirect("/a.png")
        elif name == "ftp":
            self._redirect("ftp://127.0.0.1/a.png")
        elif name == "page":
            self._send("text/html; charset=utf-8", b"<html>")
        elif name == "camera":
            self._send("multipart/x-mixed-replace; boundary=b", b"")
        elif name == "slow.png":
            self._send("image/png", b"")
            with suppress(ConnectionError):  # the client leaves
                for _ in range(20):
                    self.wfile.write(b".")
                    time.sleep(0.1)
        else:
            self.send_error(404)

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data)

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Pages, "image", write_image(tmp_path / "w.png").read_bytes())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_come_from_the_web(run: Run, web: str) -> None:
    for name in ("a.png", "untyped", "moved"):
        outcome = run("attributes", f"{web}/{name}", "--json")
        assert outcome.code == 0, outcome.err
        assert f'"frame": "{web}/{name}"' in outcome.out
    assert run("kinship", f"{web}/a.png", f"{web}/a.png").code == 0
    assert "1 people" in run("embed", f"{web}/a.png").out
    assert run("search", "gallery.npz", f"{web}/a.png").code == 0


def test_errors_of_the_web_name_the_address(
    run: Run, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 1 << 15)
    for name, message in (
        ("nothing.png", "HTTP 404"),
        ("nothing", "HTTP 404"),
        ("page", "expected JPEG, PNG or WebP, got text/html"),
        ("ftp", "redirects to ftp://127.0.0.1/a.png; expected http:// or https://"),
        ("large.png", "over the limit of"),
    ):
        outcome = run("attributes", f"{web}/{name}")
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: {web}/{name}: ")
        assert message in outcome.err
    assert "cannot be downloaded" in run("attributes", "http://127.0.0.1:9/a.png").err


def test_a_download_has_a_deadline(web: str) -> None:
    with pytest.raises(InvalidInputError, match=r"slow.png: not downloaded within 0.3"):
        downloads.download_image(f"{web}/slow.png", 0.3)


def test_an_address_without_a_suffix_is_asked_what_it_is(web: str) -> None:
    sources = resolve_sources([f"{web}/camera", f"{web}/untyped"], 5)
    assert [source.kind for source in sources] == [Kind.VIDEO, Kind.IMAGE]
    (stream,) = resolve_sources(["rtsp://127.0.0.1:9/x"], 5)
    assert stream.kind is Kind.VIDEO


def test_folders_and_patterns_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("people/b/1.jpg", "people/a/1.jpg", "people/a/deep/2.png"):
        write_image(tmp_path / name)
    write_video(tmp_path / "v.avi", 1, 5)

    def relative(*arguments: str) -> list[str]:
        return [source.relative for source in resolve_sources(arguments, 5)]

    assert relative("people") == ["a/1.jpg", "a/deep/2.png", "b/1.jpg"]
    assert relative("people/*/1.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert relative("people/**/*.png", "v.avi") == ["a/deep/2.png", "v.avi"]
    (tmp_path / "[x].png").write_bytes((tmp_path / "people/a/1.jpg").read_bytes())
    assert relative("[x].png") == ["[x].png"]  # a name, not a pattern
    with pytest.raises(InvalidInputError, match=r"v.avi: expected .*, got a video"):
        resolve_images(["v.avi"], 5)
    with pytest.raises(InvalidInputError, match=r"0: expected .*, got a camera"):
        resolve_images(["0"], 5)


def test_errors_of_files_name_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# no image", encoding="utf-8")
    (tmp_path / "broken.mp4").write_text("no video", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("README.md", "README.md: 10 bytes starting 23 20"),
        ("missing.jpg", "cannot read missing.jpg: no such file"),
        ("missing.mp4", "cannot read missing.mp4: no such file"),
        ("empty", "empty: no images"),
        ("no/*.jpg", "no/*.jpg: no file matches"),
        ("broken.mp4", "broken.mp4: OpenCV cannot read it as a video"),
        ("rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x: OpenCV cannot open this"),
    ):
        outcome = run("attributes", source)
        assert outcome.code == 1
        # one line: what OpenCV and FFmpeg print is hidden
        assert outcome.err == f"error: {outcome.err[7:].splitlines()[0]}\n"
        assert message in outcome.err
    write_video(tmp_path / "v.avi", 1, 5)
    assert "v.avi: expected an image" in run("embed", "v.avi").err


def test_no_camera_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    outcome = run("attributes", "87")
    assert outcome.err == ("error: camera 87: no camera is connected to this machine\n")


def test_another_http_server_or_a_proxy_is_named() -> None:
    message = "Received http2 header with status: 404"
    error = error_from_status("UNIMPLEMENTED", message, None, "grpc://far:8001")
    assert isinstance(error, ServerUnavailableError)
    assert "no Triton server answers at grpc://far:8001" in str(error)
    assert "no_proxy" in str(error)
