"""FastAPI under uvicorn: a worker process a core, in each the networks in a thread of
the pool, one at a time: `python -m loadtest.rivals.fastapi_server PORT`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response

from loadtest.rivals import work


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The networks of one worker."""
    app.state.networks = work.networks()
    app.state.limiter = CapacityLimiter(1)
    yield


app = FastAPI(lifespan=lifespan)


async def _answered(answer: Any, request: Request) -> Response:
    state = request.app.state
    body = await request.body()
    found = await to_thread.run_sync(
        answer, state.networks, body, limiter=state.limiter
    )
    return Response(found, media_type="application/octet-stream")


@app.post(f"/{work.GENDER}")
async def gender(request: Request) -> Response:
    """Crops."""
    return await _answered(work.answer_gender, request)


@app.post(f"/{work.FRAME}")
async def frame(request: Request) -> Response:
    """A picture and boxes."""
    return await _answered(work.answer_frame, request)


if __name__ == "__main__":
    uvicorn.run(
        "loadtest.rivals.fastapi_server:app",
        port=int(sys.argv[1]),
        workers=work.WORKERS,
        log_level="warning",
    )
