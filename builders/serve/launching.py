"""The start of a server process that ends with the process that started it.

The new process executes no code of this one. With a function for `preexec_fn`, Python
forks instead: gRPC's fork handlers then start its threads again in the new process,
whose files are being closed, and about one start in a hundred under load ended with
"epoll_wait error: Bad file descriptor" and SIGABRT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

PR_SET_PDEATHSIG = 1

PROGRAM = f"""
import ctypes, os, sys
parent = int(sys.argv[1])
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})
if os.getppid() != parent:
    sys.exit("the process that started this one has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Has the kernel send SIGTERM to the new process when its parent ends."""


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; SIGTERM ends it when this one ends.

    Args:
        command: Path of the program, and its arguments.
        environment: Variables to add to the environment.
        log: File for what the process prints.
    """
    return subprocess.Popen(
        [sys.executable, "-ISc", PROGRAM, str(os.getpid()), *command],
        env=os.environ | environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
