"""Default values of arguments, for the clients and the command.

They are apart from the clients, so that the command can print its help without loading
NumPy, OpenCV and gRPC.
"""

DEFAULT_ADDRESS = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_IN_FLIGHT = 4

FRAME_MODEL = "person_attributes"
"""The model that frames are sent to unless the caller names another."""
