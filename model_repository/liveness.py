"""Liveness probe of a stock tritonserver: fail if a Python-backend process is dead.

    python3 liveness.py [http://127.0.0.1:8000/v2/health/live]

Triton's own health endpoints stay positive when a process of its Python backend has
died, and Triton 24.06 and later do not replace it. This probe runs next to the server,
in the same container, and reads /proc: the server never collects a process that has
died, so it stays there as ended. A process that is stopped counts as dead. With an
address the probe also demands an answer from it. Exit code 0 if all is well, 1 with one
line otherwise. Needs Python 3.8 and nothing else.
"""

import argparse
import os
import sys
import time
import urllib.request

STUB = "triton_python_b"
"""Name of a Python-backend process, of which the kernel keeps 15 characters."""

CONFIRM_S = 0.3
"""A process that is only being unloaded has been collected after this time."""

TIMEOUT_S = 2.0


def find_dead(session=None):
    """Return the process ids of Python-backend processes that are dead or stopped.

    Args:
        session: Process id of one server; None for those of every server.
    """
    dead = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
        except OSError:
            continue  # it has just ended
        state, _, _, owner, *_ = tail.split()
        is_ours = session is None or int(owner) == session
        if head.partition("(")[2] == STUB and state in "ZXT" and is_ours:
            dead.add(int(name))
    return dead


def main():
    """Check the processes, and the address if one is given."""
    parser = argparse.ArgumentParser(description="Liveness probe of a tritonserver.")
    parser.add_argument("url", nargs="?", help="Demand an answer of 200 from this URL.")
    parser.add_argument(
        "--session",
        type=int,
        metavar="PID",
        help="Process id of the server, where several run on a machine.",
    )
    options = parser.parse_args()
    dead = find_dead(options.session)
    if dead:
        time.sleep(CONFIRM_S)
        dead &= find_dead(options.session)
    if dead:
        sys.exit(f"dead Python-backend processes: {sorted(dead)}; restart the server")
    if options.url:
        # proxies of the environment have no business with the loopback
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(options.url, timeout=TIMEOUT_S):
                pass
        except OSError as exc:
            sys.exit(f"{options.url}: {exc}")


if __name__ == "__main__":
    main()
