"""The client's calls, as generators that do no I/O.

A call yields requests, receives their replies and returns its result (see _retry). The
synchronous client runs calls with plain function calls, the asynchronous one with
`await`; a call does not know which, so there is one implementation of each.
"""

from __future__ import annotations

from collections.abc import Callable

from personserve._calls.crops import CropCalls
from personserve._calls.faces import FaceCalls
from personserve._calls.frames import FrameCalls
from personserve._calls.images import ImageCalls
from personserve._calls.inference import InferenceCalls
from personserve._calls.models import ModelCalls


class Calls:
    """The calls of one client, by the kind of their input.

    Args:
        abstain_below: Probability below which a gender is marked as abstained.
        shares_memory: Whether frames are passed in shared memory, not over a wire.
        choose_endpoint: Returns the address that the next call should use.

    Attributes:
        models: Calls about models.
        inference: Inferences of any model.
        frames: Calls that send frames.
        crops: Calls that send crops of people.
        faces: Calls that send faces.
        images: Calls that send whole images.
    """

    def __init__(
        self,
        abstain_below: float = 0.0,
        *,
        shares_memory: bool = False,
        choose_endpoint: Callable[[], str] = str,
    ) -> None:
        self.models = ModelCalls(choose_endpoint)
        self.inference = InferenceCalls(self.models)
        self.crops = CropCalls(self.models, abstain_below)
        self.frames = FrameCalls(self.models, self.crops, shares_memory)
        self.faces = FaceCalls(self.models)
        self.images = ImageCalls(self.models)
