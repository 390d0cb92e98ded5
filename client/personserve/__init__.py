"""Client for gender and re-identification of detected persons on a Triton server.

    from personserve import Client

    with Client("grpc://127.0.0.1:8001") as client:
        people = client.attributes(frame, boxes)

Dependencies: NumPy (1.26 or 2), OpenCV, tritonclient and lazy-loader. The public names
are those of `__init__.pyi`; each loads its module, and with it OpenCV or gRPC, when it
is first used, so that a program that only prints its help starts at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
