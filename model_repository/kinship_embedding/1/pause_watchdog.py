# Rendered by `python -m builders render` from builders/repository/runtimes/pause_watchdog.py; edit that file.
"""Watchdog timer that kills a Python-backend process as soon as it has been paused.

Triton's Python backend gives up on a process that is silent for a second: it fails the
request, and takes the answer that the process writes later for the answer to the next
request. The limit is a constant in its source (ReceiveMessageFromStub). A process that
was paused must therefore never write its answer.

A check in Python cannot guarantee that, because the pause may begin between the check
and the answer. A timer of the kernel can: it sends SIGKILL when it expires, a thread
sets it back ten times a second, and a paused process cannot set it back. The process
dies during the pause, before it executes another instruction. The requests of a dead
process fail with an error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
import time

LIMIT_S = 0.5
"""Longest pause that a process survives. Triton looks for a sign of life that comes
every 0.3 s and gives up after 1 s without one, so a pause of 0.7 s can be too long."""

INTERVAL_S = 0.1
"""Time between two settings of the timer. A load average of 15 on two cores delayed a
thread like the one that sets it by up to 0.04 s."""

HAND_OVER_S = 0.2
"""Time in which the backend certainly has written an answer that it was given."""

CONFIRM_S = 0.05
"""Time after which the watchdog's thread looks again whether an answer is handed over.
It may get Python's lock in the middle of `hand_over`, before the backend has it."""

SIGEV_SIGNAL, SIGEV_THREAD = 0, 2
TIMER_ABSTIME = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Event(ctypes.Structure):
    """`struct sigevent`."""

    _fields_ = (
        ("value", ctypes.c_size_t),
        ("signal_number", ctypes.c_int),
        ("notification", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Setting(ctypes.Structure):
    """`struct itimerspec`: the interval and the time of expiry, each in s and ns."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("expiry_s", ctypes.c_long),
        ("expiry_ns", ctypes.c_long),
    )


class _Timer:
    """A POSIX timer on the wall clock."""

    def __init__(self, event: _Event) -> None:
        self.id = ctypes.c_size_t()
        status = _LIBC.timer_create(
            time.CLOCK_REALTIME, ctypes.byref(event), ctypes.byref(self.id)
        )
        if status != 0:
            raise _last_error()

    def set(self, seconds: float) -> bool:
        """Set the time to the expiry; False if the timer was deleted."""
        expiry = divmod(time.time_ns() + int(seconds * 1e9), 10**9)
        return self._set(_Setting(0, 0, *expiry))

    def clear(self) -> None:
        """Take back the setting."""
        self._set(_Setting(0, 0, 0, 0))

    def delete(self) -> None:
        """Delete the timer, if it exists."""
        _LIBC.timer_delete(self.id)

    def _set(self, setting: _Setting) -> bool:
        status = _LIBC.timer_settime(
            self.id, TIMER_ABSTIME, ctypes.byref(setting), None
        )
        if status != 0 and ctypes.get_errno() != errno.EINVAL:
            raise _last_error()
        return bool(status == 0)


class PauseWatchdog:
    """A timer that kills this process LIMIT_S after the last sign of life.

    It runs on the wall clock, because Triton measures its second on that clock: a clock
    that is set forward makes Triton give up as well. A computation that holds Python's
    global interpreter lock for LIMIT_S counts as a pause, so start the watchdog after
    the modules are imported and the model is loaded.

    After `execute` the backend writes the answer and then holds the lock until Triton
    has read it, however long that takes. A second timer therefore deletes the first
    HAND_OVER_S after the end of `execute`, in a thread that does not need the lock. If
    the lock is free earlier, the watchdog's thread takes that setting back, but only
    when it has the lock for the second time: the first may be within `hand_over`.
    """

    def __init__(self) -> None:
        self._create_timers()
        self._hand_overs = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="pause-watchdog", daemon=True
        )
        self._thread.start()

    def hand_over(self) -> None:
        """Announce that the answer is complete; call it at the end of `execute`."""
        self._hand_overs += 1
        self._kill.set(LIMIT_S)
        self._delete.set(HAND_OVER_S)

    def stop(self) -> None:
        """Delete the timers: this process will not write another answer."""
        self._stopped.set()
        self._thread.join()
        self._delete.delete()
        self._kill.delete()

    def _create_timers(self) -> None:
        self._kill = _Timer(_Event(0, signal.SIGKILL, SIGEV_SIGNAL))
        self._kill.set(LIMIT_S)
        function = ctypes.cast(_LIBC.timer_delete, ctypes.c_void_p).value
        self._delete = _Timer(_Event(self._kill.id.value, 0, SIGEV_THREAD, function))

    def _run(self) -> None:
        known, pause_s = 0, INTERVAL_S
        while not self._stopped.wait(pause_s):
            if known != self._hand_overs:
                known, pause_s = self._hand_overs, CONFIRM_S
                continue
            pause_s = INTERVAL_S
            self._delete.clear()
            if not self._kill.set(LIMIT_S):
                self._delete.delete()
                self._create_timers()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"the pause watchdog: {os.strerror(number)}")
