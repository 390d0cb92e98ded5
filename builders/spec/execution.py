"""How Triton's native TensorRT backend runs a plan."""

from __future__ import annotations

from dataclasses import dataclass

from builders.tensors import require


@dataclass(frozen=True)
class PlanExecution:
    """Options of Triton's native TensorRT backend, all off by default.

    They are ModelOptimizationPolicy.Cuda in Triton's model_config.proto. Measured on an
    H100 with TensorRT 8.6.0, FP16, and graphs of all batch sizes:

    - Graphs: one crop p50 0.97 to 0.67 ms, 8 crops with 16 callers 35,700 to 41,400
      crops/s, but 64 crops with 8 callers 47,800 to 43,700 crops/s. So only small
      batches are worth one; graphs of small batches alone were not measured, which is
      why none is declared.
    - Busy waiting, 64 crops in system shared memory: p99 27 to 13 ms and 41,000 to
      43,600 crops/s, for one CPU core that does nothing else.
    - Graphs, busy waiting and a stream for outputs together ended the server.

    Attributes:
        graph_batch_sizes: Batch sizes for which the backend captures a CUDA graph when
            it loads the plan. A request of another size runs without one.
        busy_wait_events: Whether a thread waits for the GPU by asking without a pause.
        output_copy_stream: Whether outputs are copied on a CUDA stream of their own.
    """

    graph_batch_sizes: tuple[int, ...] = ()
    busy_wait_events: bool = False
    output_copy_stream: bool = False

    def __post_init__(self) -> None:
        require(
            not (
                self.graph_batch_sizes
                and self.busy_wait_events
                and self.output_copy_stream
            ),
            "execution: graph_batch_sizes, busy_wait_events and output_copy_stream "
            "together end the server; leave one of them out",
        )

    def check_batch_sizes(self, max_batch_size: int) -> None:
        """Require that each graph is for a batch that the model accepts.

        Args:
            max_batch_size: Largest batch that the model accepts.

        Raises:
            SpecError: A batch size is outside 1 to max_batch_size.
        """
        require(
            all(1 <= size <= max_batch_size for size in self.graph_batch_sizes),
            f"execution: graph_batch_sizes {list(self.graph_batch_sizes)} are not "
            f"within 1..max_batch_size ({max_batch_size})",
        )
