"""Install this project with extras, in the environment of the Python that runs this.

    python requirements/install.py dev

uv installs where it can be had, because it chooses, downloads and unpacks the 220
packages of `dev` in 26 s of CPU time and compiles none of them. It is told pip's own
indexes. Where it cannot be installed, or fails, pip does the same.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).with_name("constraints.txt")
ROOT = LOCK.parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Variable of uv for each setting of pip that says where packages are."""


def uv_environment(settings: str) -> dict[str, str]:
    """Translate the settings of pip's configuration to variables of uv.

    Args:
        settings: Output of `pip config list`: lines like global.index-url='URL'.

    Returns:
        Variables by name; a list of values is separated by spaces, as in pip's files.
    """
    # as pip: the best version of all indexes, not the first index that has a package
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    # variables of the environment, which pip lists first, win over files
    for line in reversed(settings.splitlines()):
        key, _, value = line.partition("=")
        variable = UV_VARIABLES.get(key.rpartition(".")[2])
        if variable is not None:
            variables[variable] = " ".join(ast.literal_eval(value).split())
    if "UV_FIND_LINKS" in variables:  # uv separates these by commas
        variables["UV_FIND_LINKS"] = variables["UV_FIND_LINKS"].replace(" ", ",")
    return variables


def install(extras: str) -> None:
    """Install the project, editable, with the locked versions.

    Args:
        extras: Names of extras, comma-separated.

    Raises:
        CalledProcessError: Neither uv nor pip could install.
    """
    what = ("install", "--quiet", "-c", str(LOCK), "-e", f"{ROOT}[{extras}]")
    has_uv = not subprocess.run(
        [*PIP, "install", "--quiet", "-c", str(LOCK), "uv"], check=False
    ).returncode
    if has_uv:
        listed = subprocess.run(
            [*PIP, "config", "list"], check=True, capture_output=True, text=True
        )
        uv = (sys.executable, "-m", "uv", "pip", *what, "--python", sys.executable)
        variables = uv_environment(listed.stdout)
        if not subprocess.run(uv, env=variables | os.environ, check=False).returncode:
            return
        sys.stderr.write("uv could not install; pip tries\n")
    subprocess.run([*PIP, *what], check=True)


if __name__ == "__main__":
    install(sys.argv[1])
