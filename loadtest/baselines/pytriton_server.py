"""pytriton: Triton with Python functions as models, one instance per core.

Crops have pytriton's default dynamic batching. Started by `python -m loadtest compare`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtest.baselines.in_process import CROPS, EMBEDDING, GENDER
from loadtest.baselines.work import FRAME_JOB, GENDER_JOB, WORKERS, open_networks

MAX_CROPS = 64


def _make_gender() -> Callable[..., Any]:
    networks = open_networks()

    @batch  # type: ignore[untyped-decorator]
    def infer(crops: Any) -> dict[str, Any]:
        return {GENDER: networks.classify_gender(crops)}

    return infer  # type: ignore[no-any-return]


def _make_frame() -> Callable[..., Any]:
    networks = open_networks()

    def infer(requests: Any) -> list[dict[str, Any]]:
        responses = []
        for request in requests:
            jpeg = np.asarray(request["encoded_frame"]).tobytes()
            boxes = np.asarray(request["boxes"])
            gender, embeddings = networks.describe_people(jpeg, boxes)
            responses.append({GENDER: gender, EMBEDDING: embeddings})
        return responses

    return infer


def main(port: int) -> None:
    """Serve until the process is stopped.

    Args:
        port: Port for gRPC; HTTP has the next one, and metrics the one after.
    """
    config = TritonConfig(
        http_port=port + 1, grpc_port=port, metrics_port=port + 2, log_verbose=0
    )
    shape = open_networks().specs[GENDER].crop
    crop = (shape.height, shape.width, 3)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=GENDER_JOB,
            infer_func=[_make_gender() for _ in range(WORKERS)],
            inputs=[Tensor(name=CROPS, dtype=np.uint8, shape=crop)],
            outputs=[Tensor(name=GENDER, dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MAX_CROPS),
        )
        triton.bind(
            model_name=FRAME_JOB,
            infer_func=[_make_frame() for _ in range(WORKERS)],
            inputs=[
                Tensor(name="encoded_frame", dtype=np.uint8, shape=(-1,)),
                Tensor(name="boxes", dtype=np.float32, shape=(-1, 4)),
            ],
            outputs=[
                Tensor(name=GENDER, dtype=np.float32, shape=(-1, 1)),
                Tensor(name=EMBEDDING, dtype=np.float32, shape=(-1, -1)),
            ],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
