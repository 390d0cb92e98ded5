"""The synchronous client."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from personserve._defaults import (
    DEFAULT_ADDRESS,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT_S,
    FRAME_MODEL,
)
from personserve._errors import PersonServeError
from personserve._factory import ClientParts, build_client_parts
from personserve._results import Classification, InferResult, Kinship, People
from personserve._retry import Call, Dispatcher, Pause, Send
from personserve._retry_policy import Retry
from personserve._types import (
    Array,
    Boxes,
    CropSide,
    FrameInput,
    GpuArray,
    Headers,
    ImageInput,
    ImageInputs,
    MemoryKind,
)
from personserve._wire.connection import Tls
from personserve._wire.requests import ModelDescription, ModelState
from personserve._wire.transport import Transport, open_transport

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

READY_TIMEOUT_S = 2.0


class Client:
    """Client of a Triton server with personserve's models. It is thread-safe.

        with Client("grpc://127.0.0.1:8001") as client:
            for person in client.attributes(frame, boxes):
                print(person.gender.label, person.embedding.shape)

    Every method raises a subclass of PersonServeError if the server or the arguments
    are at fault; the module personserve._errors shows their tree.

    Args:
        address: Address of the server, or several. The scheme is grpc://, grpcs://,
            http:// or https://; or dns:///name:port, which is grpc://name:port. With
            several, requests go to each address in turn, and those that do not answer
            are skipped for a while. Over gRPC a name that resolves to several IP
            addresses is several servers, and requests go to each in turn.
        timeout_s: Deadline of each call in seconds, retries included, unless the call
            has its own.
        retry: When and how often failed requests are repeated. None for the defaults.
        tls: Certificate files for encrypted addresses. None for the defaults.
        headers: Headers of every request. A callable is called for each request, so
            that tokens can change.
        compression: "gzip" to compress requests, for slow networks.
        shared_memory: Pass frames and crops to a server on this machine in shared
            memory: "system" for /dev/shm, "cuda" for the memory of the first GPU.
        abstain_below: Genders that are less probable than this are marked as
            abstained.
        transport: Used in place of the wire, for example MockTransport in tests.

    Raises:
        InvalidInputError: If an argument is invalid, or needs a package or a GPU that
            is missing.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        tls: Tls | None = None,
        headers: Headers | None = None,
        compression: Literal["gzip"] | None = None,
        shared_memory: MemoryKind | None = None,
        abstain_below: float = 0.0,
        transport: Transport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._parts: ClientParts[Transport] = build_client_parts(
            address,
            transport,
            open_transport,
            retry=retry,
            tls=tls,
            headers=headers,
            compression=compression,
            shared_memory=shared_memory,
            abstain_below=abstain_below,
        )
        self._calls = self._parts.calls
        self._close = weakref.finalize(self, _close_parts, self._parts)

    def attributes(
        self,
        frame: ImageInput,
        boxes: Boxes,
        *,
        model: str = FRAME_MODEL,
        crop_on: CropSide = "server",
        timeout_s: float | None = None,
    ) -> People:
        """Return gender and embedding of the person in each box of a frame.

        Other models than the default one answer other things, for example kinship
        embeddings, and leave the rest None; see People.

        Args:
            frame: A UINT8 array [H, W, 3] in BGR order (as OpenCV reads), a JPEG, PNG
                or WebP as bytes or as a path, or a PIL image.
            boxes: [N, 4] numbers (x0, y0, x1, y1) in pixels, or the result of a
                detector: supervision's Detections, ultralytics' Results or a list of
                one. A result with classes other than persons is refused. Boxes are
                clipped to the frame. Without boxes there is no inference; more than
                the server accepts at once are split over several requests.
            model: Name of a model that takes frames; `frame_models` lists them.
            crop_on: Where people are cropped from the frame: on the "server", on the
                "client" (the same pixels, for raw frames), or "auto" for the side that
                is cheaper.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            One Person for each box, in order.

        Raises:
            InvalidInputError: If frame or boxes are invalid, or a box is outside the
                frame (the message names its index), or the model takes no frames.
            ModelUnavailableError: If the server does not serve the model.
            PersonServeError: If the server does not answer.
        """
        return self._run(
            self._calls.frames.attributes(frame, boxes, crop_on, model), timeout_s
        )

    def attributes_of_crops(
        self,
        crops: ImageInputs,
        *,
        model: str = FRAME_MODEL,
        timeout_s: float | None = None,
    ) -> People:
        """Return gender and embedding of the person in each crop.

        Crops are resized by the client, so no Python code runs on the server.

        Args:
            crops: Images of one person each, of any sizes (see `attributes` for the
                accepted types), or one UINT8 array [N, H, W, 3] in BGR order.
            model: Name of a model that takes frames, whose form for crops (the same
                name with the ending "_crops") is used; or of any model that takes
                crops, for example a single network.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            One Person for each crop, in order.

        Raises:
            InvalidInputError: If a crop is invalid (the message names its index), or
                the model takes no crops.
            ModelUnavailableError: If the server does not serve the model.
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.crops.attributes(crops, model), timeout_s)

    def attributes_stream(
        self,
        frames: Iterable[FrameInput],
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        model: str = FRAME_MODEL,
        crop_on: CropSide = "server",
        timeout_s: float | None = None,
    ) -> Iterator[People]:
        """Yield `attributes` of each frame of a video, with several requests at once.

        Over gRPC all requests use one stream, which takes less than half the CPU time
        of single calls for raw frames. At most `in_flight` frames are in memory, so
        `list(client.attributes_stream(pairs))` is the call for an archive of any size.

        Args:
            frames: Pairs of frame and boxes. The next pair is taken when one of the
                `in_flight` requests is answered.
            in_flight: Largest number of frames whose answer is outstanding.
            model: See `attributes`.
            crop_on: See `attributes`.
            timeout_s: Deadline of each frame in seconds, None for the client's.

        Yields:
            The people of each frame, in the order of the frames.

        Raises:
            PersonServeError: See `attributes`; raised at the failed frame's turn, and
                the stream ends.
        """
        pending: deque[Future[People]] = deque()
        remaining = iter(frames)
        dispatcher, streams = self._parts.dispatcher.with_streams()
        with ThreadPoolExecutor(in_flight) as pool:
            try:
                while True:
                    for frame, boxes in islice(remaining, in_flight - len(pending)):
                        call = self._calls.frames.attributes(
                            frame, boxes, crop_on, model
                        )
                        pending.append(
                            pool.submit(self._run, call, timeout_s, dispatcher)
                        )
                    if not pending:
                        return
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
                for stream in streams:
                    stream.close()

    def kinship(
        self, face_a: ImageInput, face_b: ImageInput, *, timeout_s: float | None = None
    ) -> Kinship:
        """Return the probability that two people are related, from their faces.

        Args:
            face_a: Image of a face, of any size (see `attributes` for the accepted
                types).
            face_b: Image of the other face.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            A Kinship whose `probability` is the answer.

        Raises:
            InvalidInputError: If an image is invalid.
            PersonServeError: If the server does not answer.
        """
        return self._run(
            self._calls.faces.kinship_matrix([face_a], [face_b]), timeout_s
        )

    def kinship_matrix(
        self,
        faces_a: ImageInputs,
        faces_b: ImageInputs,
        *,
        timeout_s: float | None = None,
    ) -> Kinship:
        """Return the probability that two people are related, for all pairs of faces.

        Each face passes through the network's trunk once: N + M passes for N x M pairs.

        Args:
            faces_a: Images of N faces, of any sizes (see `attributes` for the accepted
                types).
            faces_b: Images of M faces.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            A Kinship whose `probabilities` are [N, M].

        Raises:
            InvalidInputError: If an image is invalid; the message names its index.
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.faces.kinship_matrix(faces_a, faces_b), timeout_s)

    def classify(
        self,
        images: ImageInputs,
        *,
        count: int = 5,
        labels: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """Return the most probable ImageNet classes of each image.

        Args:
            images: Images of any sizes (see `attributes` for the accepted types).
            count: Number of classes to return for each image.
            labels: Names of all classes in the network's order.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            One Classification for each image, in order.

        Raises:
            InvalidInputError: If an image is invalid (the message names its index), or
                the number of labels is not that of the classes.
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.images.classify(images, count, labels), timeout_s)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array | GpuArray],
        *,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run any of the server's models.

        Args:
            model: Name of the model.
            inputs: Arrays by input name, as `describe` lists them. With
                `shared_memory="cuda"` arrays may be on the GPU (torch, CuPy).
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            A dict of read-only arrays by output name, which also names models with
            untrained weights (`stand_in_weights`).

        Raises:
            InvalidInputError: If the names, types or shapes are not the model's.
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.inference.infer(model, inputs), timeout_s)

    def describe(
        self, model: str, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """Return a model's configuration: tensors, limits and parameters.

        Args:
            model: Name of the model.
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            The description, requested from the server by each call.

        Raises:
            ModelUnavailableError: If the server does not serve the model.
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.models.describe(model), timeout_s)

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelState, ...]:
        """Return the state of every model in the server's repository.

        Args:
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            The states, sorted by name.

        Raises:
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.models.list_states(), timeout_s)

    def frame_models(
        self, *, timeout_s: float | None = None
    ) -> tuple[ModelDescription, ...]:
        """Return the models that take frames, so that `attributes` can name them.

        Args:
            timeout_s: Deadline in seconds, None for the client's.

        Returns:
            Descriptions of those that are ready, sorted by name; their `outputs` tell
            what they answer.

        Raises:
            PersonServeError: If the server does not answer.
        """
        return self._run(self._calls.models.list_for_frames(), timeout_s)

    def ready(
        self, model: str | None = None, *, timeout_s: float = READY_TIMEOUT_S
    ) -> bool:
        """Return whether the server, or one of its models, is ready.

        Args:
            model: Name of the model, or None for the server.
            timeout_s: Deadline in seconds.

        Returns:
            True if it is ready; False if it is not, or the server is unreachable.
        """
        try:
            return self._run(self._calls.models.ready(model), timeout_s)
        except PersonServeError:
            return False

    def close(self) -> None:
        """Close connections and release shared memory."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(
        self,
        call: Call[T],
        timeout_s: float | None,
        dispatcher: Dispatcher[Transport] | None = None,
    ) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        dispatcher = dispatcher or self._parts.dispatcher
        return run_actions(dispatcher.run_call(call, timeout_s))


def run_actions(actions: Generator[Send[Transport] | Pause, Any, T]) -> T:
    """Run the actions of a call in this thread.

    Args:
        actions: Generator of actions, from Dispatcher.run_call.

    Returns:
        The call's result.

    Raises:
        PersonServeError: If the call fails.
    """
    try:
        action = next(actions)
        while True:
            if isinstance(action, Pause):
                time.sleep(action.seconds)
                action = actions.send(None)
                continue
            try:
                reply = action.transport.send(action.request, action.timeout_s)
            except PersonServeError as exc:
                action = actions.throw(exc)
            else:
                action = actions.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _close_parts(parts: ClientParts[Transport]) -> None:
    parts.release_memory()
    for endpoint in parts.dispatcher.endpoints:
        endpoint.transport.close()
