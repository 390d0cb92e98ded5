"""personserve: gender and re-identification of detected persons, from a Triton server.

    from personserve import Client

    with Client("grpc://127.0.0.1:8001") as client:
        people = client.attributes(frame, boxes)

Needs NumPy, OpenCV and tritonclient; works with NumPy 1.26 and 2.
"""

from personserve._async_client import AsyncClient as AsyncClient
from personserve._client import Client as Client
from personserve._connection import Tls as Tls
from personserve._delivery import Retry as Retry
from personserve._errors import AccessDeniedError as AccessDeniedError
from personserve._errors import (
    IncompatibleServerError as IncompatibleServerError,
)
from personserve._errors import InvalidInputError as InvalidInputError
from personserve._errors import ModelLoadingError as ModelLoadingError
from personserve._errors import ModelUnavailableError as ModelUnavailableError
from personserve._errors import PersonServeError as PersonServeError
from personserve._errors import RequestTimeoutError as RequestTimeoutError
from personserve._errors import ServerError as ServerError
from personserve._errors import ServerUnavailableError as ServerUnavailableError
from personserve._requests import ModelDescription as ModelDescription
from personserve._requests import ModelState as ModelState
from personserve._requests import TensorDescription as TensorDescription
from personserve._results import Class as Class
from personserve._results import Classification as Classification
from personserve._results import Gender as Gender
from personserve._results import Kinship as Kinship
from personserve._results import People as People
from personserve._results import Person as Person
from personserve._transport import AsyncTransport as AsyncTransport
from personserve._transport import Transport as Transport

__all__ = [
    "AccessDeniedError",
    "AsyncClient",
    "AsyncTransport",
    "Class",
    "Classification",
    "Client",
    "Gender",
    "IncompatibleServerError",
    "InvalidInputError",
    "Kinship",
    "ModelDescription",
    "ModelLoadingError",
    "ModelState",
    "ModelUnavailableError",
    "People",
    "Person",
    "PersonServeError",
    "RequestTimeoutError",
    "Retry",
    "ServerError",
    "ServerUnavailableError",
    "TensorDescription",
    "Tls",
    "Transport",
]
