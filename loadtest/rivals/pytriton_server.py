"""pytriton: Triton in front of functions of this process, one a core, with its default
dynamic batching for crops: `python -m loadtest.rivals.pytriton_server PORT` (gRPC).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtest.rivals.work import FRAME, GENDER, WORKERS, networks

MOST_CROPS = 64


def _gender() -> Callable[..., Any]:
    own = networks()

    @batch  # type: ignore[untyped-decorator]
    def infer(crops: Any) -> dict[str, Any]:
        return {"female_probability": own.gender(crops)}

    return infer  # type: ignore[no-any-return]


def _frame() -> Callable[..., Any]:
    own = networks()

    def infer(requests: Any) -> list[dict[str, Any]]:
        found = []
        for request in requests:
            jpeg = np.asarray(request["frame"]).tobytes()
            gender, embeddings = own.frame(jpeg, np.asarray(request["boxes"]))
            found.append({"female_probability": gender, "embedding": embeddings})
        return found

    return infer


def main(port: int) -> None:
    """Serve until stopped."""
    config = TritonConfig(
        http_port=port + 1, grpc_port=port, metrics_port=port + 2, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=GENDER,
            infer_func=[_gender() for _ in range(WORKERS)],
            inputs=[Tensor(name="crops", dtype=np.uint8, shape=(224, 224, 3))],
            outputs=[Tensor(name="female_probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MOST_CROPS),
        )
        triton.bind(
            model_name=FRAME,
            infer_func=[_frame() for _ in range(WORKERS)],
            inputs=[
                Tensor(name="frame", dtype=np.uint8, shape=(-1,)),
                Tensor(name="boxes", dtype=np.float32, shape=(-1, 4)),
            ],
            outputs=[
                Tensor(name="female_probability", dtype=np.float32, shape=(-1, 1)),
                Tensor(name="embedding", dtype=np.float32, shape=(-1, 512)),
            ],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
