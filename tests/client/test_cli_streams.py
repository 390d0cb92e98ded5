"""A stream over the network, from an HTTP server that behaves like a camera.

The form is MJPEG, which needs no server but these lines. RTSP goes the same way:
OpenCV's FFmpeg opens both, and it was proven by hand with FFmpeg as the sender.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from personserve import MockTransport
from tests.client.conftest import Run, answer

MAX_FRAMES = 3000
"""Frames after which the camera ends whatever happens, about a minute."""


class _Camera(ThreadingHTTPServer):
    """Sends frames until one was analysed, then some more, then ends the stream."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.analysed = threading.Event()
        self.was_analysed_while_sending = False

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        for number in range(MAX_FRAMES):
            frame = np.full((128, 128, 3), number % 200, np.uint8)
            data = cv2.imencode(".jpg", frame)[1].tobytes()
            head = "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
            handler.wfile.write(head.format(len(data)).encode() + data + b"\r\n")
            if self.analysed.wait(0.02):
                self.was_analysed_while_sending = True
                break


class _Handler(BaseHTTPRequestHandler):
    server: _Camera

    def do_GET(self) -> None:
        kind = "multipart/x-mixed-replace; boundary=frame"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        with suppress(ConnectionError):  # the command looked only at the head
            self.server.send(self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera() -> Iterator[_Camera]:
    server = _Camera()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["stream.mjpg", "video?camera=1"])
def test_frames_of_a_stream_are_analysed_as_they_come(
    run: Run, camera: _Camera, transport: MockTransport, path: str
) -> None:
    def note(request: object) -> object:
        camera.analysed.set()
        return answer(request)

    transport._answers = note
    address = f"http://127.0.0.1:{camera.server_port}/{path}"
    outcome = run("attributes", address, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert lines
    assert {line["source"] for line in lines} == {address}
    assert len(lines[0]["people"]) == 2
    assert camera.was_analysed_while_sending, "rows must not wait for the end"
