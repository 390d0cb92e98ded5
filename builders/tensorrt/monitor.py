"""Progress of a running build."""

from __future__ import annotations

from typing import Any

from builders.progress import Progress
from builders.tensorrt.library import Library


def create_monitor(library: Library, progress: Progress) -> Any:
    """Create a monitor that passes a build's phases on to a progress callback.

    Args:
        library: A library with `reports_progress`.
        progress: Called with the phase, the number of finished steps and their total.
            A KeyboardInterrupt that it raises cancels the build.

    Returns:
        An IProgressMonitor with an attribute `cancelled`.
    """

    class Monitor(library.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self._step_counts: dict[str, int] = {}

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self._step_counts[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                progress(f"building: {name}", step + 1, self._step_counts.get(name, 0))
            except KeyboardInterrupt:
                self.cancelled = True
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            self._step_counts.pop(name, None)

    return Monitor()
