"""personserve: gender and re-identification of detected persons, from a Triton server.

    from personserve import Client

    with Client("127.0.0.1:8001") as client:
        people = client.attributes(frame, boxes)

Needs NumPy, OpenCV and tritonclient; works with NumPy 1.26 and 2.
"""

from personserve._client import Client as Client
from personserve._errors import (
    IncompatibleServerError as IncompatibleServerError,
)
from personserve._errors import InvalidInputError as InvalidInputError
from personserve._errors import ModelUnavailableError as ModelUnavailableError
from personserve._errors import PersonServeError as PersonServeError
from personserve._errors import RequestTimeoutError as RequestTimeoutError
from personserve._errors import ServerError as ServerError
from personserve._errors import ServerUnavailableError as ServerUnavailableError
from personserve._results import Gender as Gender
from personserve._results import Kinship as Kinship
from personserve._results import People as People
from personserve._results import Person as Person
from personserve._transport import ModelDescription as ModelDescription
from personserve._transport import TensorDescription as TensorDescription
from personserve._transport import Transport as Transport

__all__ = [
    "Client",
    "Gender",
    "IncompatibleServerError",
    "InvalidInputError",
    "Kinship",
    "ModelDescription",
    "ModelUnavailableError",
    "People",
    "Person",
    "PersonServeError",
    "RequestTimeoutError",
    "ServerError",
    "ServerUnavailableError",
    "TensorDescription",
    "Transport",
]
