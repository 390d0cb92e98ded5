"""FastAPI under uvicorn, with one worker process per core.

Each worker runs one request at a time in a thread of its pool. Started by
`python -m loadtest compare`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response

from loadtest.baselines import work


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the networks of one worker.

    Args:
        app: The worker's application.
    """
    app.state.networks = work.open_networks()
    app.state.limiter = CapacityLimiter(1)
    yield


app = FastAPI(lifespan=lifespan)


async def _respond(respond: Any, request: Request) -> Response:
    state = request.app.state
    body = await request.body()
    values = await to_thread.run_sync(
        respond, state.networks, body, limiter=state.limiter
    )
    return Response(values, media_type="application/octet-stream")


@app.post(f"/{work.GENDER_JOB}")
async def gender(request: Request) -> Response:
    """Classify crops.

    Args:
        request: The crops' bytes.
    """
    return await _respond(work.respond_to_crops, request)


@app.post(f"/{work.FRAME_JOB}")
async def frame(request: Request) -> Response:
    """Describe the people in a frame.

    Args:
        request: A frame with boxes (work.pack_frame).
    """
    return await _respond(work.respond_to_frame, request)


if __name__ == "__main__":
    uvicorn.run(
        "loadtest.baselines.fastapi_server:app",
        port=int(sys.argv[1]),
        workers=work.WORKERS,
        log_level="warning",
    )
