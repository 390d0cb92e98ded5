from . import gallery as gallery
from . import tracks as tracks
from ._async_client import AsyncClient as AsyncClient
from ._client import Client as Client
from ._errors import AccessDeniedError as AccessDeniedError
from ._errors import IncompatibleServerError as IncompatibleServerError
from ._errors import InvalidInputError as InvalidInputError
from ._errors import ModelLoadingError as ModelLoadingError
from ._errors import ModelUnavailableError as ModelUnavailableError
from ._errors import OverloadedError as OverloadedError
from ._errors import PersonServeError as PersonServeError
from ._errors import RequestTimeoutError as RequestTimeoutError
from ._errors import ServerError as ServerError
from ._errors import ServerUnavailableError as ServerUnavailableError
from ._mock import AsyncMockTransport as AsyncMockTransport
from ._mock import InferHandler as InferHandler
from ._mock import MockTransport as MockTransport
from ._mock import describe_mock_models as describe_mock_models
from ._results import Classification as Classification
from ._results import ClassScore as ClassScore
from ._results import EmbeddingSource as EmbeddingSource
from ._results import Gender as Gender
from ._results import InferResult as InferResult
from ._results import Kinship as Kinship
from ._results import People as People
from ._results import Person as Person
from ._results import Role as Role
from ._results import annotate as annotate
from ._retry_policy import Retry as Retry
from ._types import Array as Array
from ._types import Boxes as Boxes
from ._types import CropSide as CropSide
from ._types import FrameInput as FrameInput
from ._types import GpuArray as GpuArray
from ._types import Headers as Headers
from ._types import ImageInput as ImageInput
from ._types import ImageInputs as ImageInputs
from ._types import MemoryKind as MemoryKind
from ._version import __version__ as __version__
from ._wire.connection import Tls as Tls
from ._wire.requests import DescribeModel as DescribeModel
from ._wire.requests import DeviceArray as DeviceArray
from ._wire.requests import Infer as Infer
from ._wire.requests import ListMemory as ListMemory
from ._wire.requests import ListModels as ListModels
from ._wire.requests import ModelDescription as ModelDescription
from ._wire.requests import ModelState as ModelState
from ._wire.requests import Ready as Ready
from ._wire.requests import RegisterMemory as RegisterMemory
from ._wire.requests import Request as Request
from ._wire.requests import SharedTensor as SharedTensor
from ._wire.requests import TensorDescription as TensorDescription
from ._wire.requests import UnregisterMemory as UnregisterMemory
from ._wire.transport import AsyncTransport as AsyncTransport
from ._wire.transport import Transport as Transport
from .images.crops import CropShape as CropShape
from .images.cutting import cut_people as cut_people
from .internal.access import token_headers as token_headers
from .tracks import AsyncTracks as AsyncTracks
from .tracks import RequestPolicy as RequestPolicy
from .tracks import Track as Track
from .tracks import Tracks as Tracks

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
    "__version__",
    "annotate",
    "cut_people",
    "describe_mock_models",
    "gallery",
    "token_headers",
    "tracks",
]
