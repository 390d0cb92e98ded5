"""Client for gender and re-identification of detected persons on a Triton server.

    from personserve import Client

    with Client("grpc://127.0.0.1:8001") as client:
        people = client.attributes(frame, boxes)

Dependencies: NumPy (1.26 or 2), OpenCV and tritonclient.
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from personserve._async_client import AsyncClient as AsyncClient
from personserve._client import Client as Client
from personserve._errors import AccessDeniedError as AccessDeniedError
from personserve._errors import IncompatibleServerError as IncompatibleServerError
from personserve._errors import InvalidInputError as InvalidInputError
from personserve._errors import ModelLoadingError as ModelLoadingError
from personserve._errors import ModelUnavailableError as ModelUnavailableError
from personserve._errors import OverloadedError as OverloadedError
from personserve._errors import PersonServeError as PersonServeError
from personserve._errors import RequestTimeoutError as RequestTimeoutError
from personserve._errors import ServerError as ServerError
from personserve._errors import ServerUnavailableError as ServerUnavailableError
from personserve._mock import AsyncMockTransport as AsyncMockTransport
from personserve._mock import InferHandler as InferHandler
from personserve._mock import MockTransport as MockTransport
from personserve._mock import describe_mock_models as describe_mock_models
from personserve._results import Classification as Classification
from personserve._results import ClassScore as ClassScore
from personserve._results import EmbeddingSource as EmbeddingSource
from personserve._results import Gender as Gender
from personserve._results import InferResult as InferResult
from personserve._results import Kinship as Kinship
from personserve._results import People as People
from personserve._results import Person as Person
from personserve._results import Role as Role
from personserve._results import annotate as annotate
from personserve._retry_policy import Retry as Retry
from personserve._types import Array as Array
from personserve._types import Boxes as Boxes
from personserve._types import CropSide as CropSide
from personserve._types import FrameInput as FrameInput
from personserve._types import GpuArray as GpuArray
from personserve._types import Headers as Headers
from personserve._types import ImageInput as ImageInput
from personserve._types import ImageInputs as ImageInputs
from personserve._types import MemoryKind as MemoryKind
from personserve._wire.connection import Tls as Tls
from personserve._wire.requests import DescribeModel as DescribeModel
from personserve._wire.requests import DeviceArray as DeviceArray
from personserve._wire.requests import Infer as Infer
from personserve._wire.requests import ListMemory as ListMemory
from personserve._wire.requests import ListModels as ListModels
from personserve._wire.requests import ModelDescription as ModelDescription
from personserve._wire.requests import ModelState as ModelState
from personserve._wire.requests import Ready as Ready
from personserve._wire.requests import RegisterMemory as RegisterMemory
from personserve._wire.requests import Request as Request
from personserve._wire.requests import SharedTensor as SharedTensor
from personserve._wire.requests import TensorDescription as TensorDescription
from personserve._wire.requests import UnregisterMemory as UnregisterMemory
from personserve._wire.transport import AsyncTransport as AsyncTransport
from personserve._wire.transport import Transport as Transport
from personserve.images.crops import CropShape as CropShape
from personserve.images.cutting import cut_people as cut_people
from personserve.internal.access import token_headers as token_headers
from personserve.tracks import AsyncTracks as AsyncTracks
from personserve.tracks import RequestPolicy as RequestPolicy
from personserve.tracks import Track as Track
from personserve.tracks import Tracks as Tracks

try:
    __version__ = _version("personserve")
except _PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

__all__ = [
    "AccessDeniedError",
    "Array",
    "AsyncClient",
    "AsyncMockTransport",
    "AsyncTracks",
    "AsyncTransport",
    "Boxes",
    "ClassScore",
    "Classification",
    "Client",
    "CropShape",
    "CropSide",
    "DescribeModel",
    "DeviceArray",
    "EmbeddingSource",
    "FrameInput",
    "Gender",
    "GpuArray",
    "Headers",
    "ImageInput",
    "ImageInputs",
    "IncompatibleServerError",
    "Infer",
    "InferHandler",
    "InferResult",
    "InvalidInputError",
    "Kinship",
    "ListMemory",
    "ListModels",
    "MemoryKind",
    "MockTransport",
    "ModelDescription",
    "ModelLoadingError",
    "ModelState",
    "ModelUnavailableError",
    "OverloadedError",
    "People",
    "Person",
    "PersonServeError",
    "Ready",
    "RegisterMemory",
    "Request",
    "RequestPolicy",
    "RequestTimeoutError",
    "Retry",
    "Role",
    "ServerError",
    "ServerUnavailableError",
    "SharedTensor",
    "TensorDescription",
    "Tls",
    "Track",
    "Tracks",
    "Transport",
    "UnregisterMemory",
    "annotate",
    "cut_people",
    "describe_mock_models",
    "token_headers",
]
