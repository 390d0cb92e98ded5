#!/usr/bin/env bash
# Write the exact versions that CI and the Makefile install, from what pip finds today:
#
#   constraints.txt   every package of the extra `dev`
#   server-side.txt   with hashes: what the Python models import on a server
#
# Run it by `make lock`. Hashes are for the server side only: it has no torch, whose
# CPU and CUDA builds share a version and differ in content.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
pip() { "$environment/bin/python" -m pip --disable-pip-version-check "$@"; }

pip install --quiet -e ".[dev]"
rm -rf client/personserve.egg-info build
{
    echo '# Exact versions of the extra `dev` for CPython 3.11 on Linux x86-64:'
    echo '# pip install -c requirements/constraints.txt -e ".[dev]". Written by `make lock`.'
    # torch's local version (+cpu) depends on where pip found it
    pip freeze --exclude-editable | sed 's/+cpu$//'
} >requirements/constraints.txt

pip install --quiet pip-tools
{
    echo '# What the Python models of the repository import on a server, with hashes:'
    echo '# pip install --require-hashes -r requirements/server-side.txt. Written by `make lock`.'
    "$environment/bin/pip-compile" --quiet --no-header --no-annotate --generate-hashes \
        --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --allow-unsafe -c requirements/constraints.txt -o - \
        <(sed -n '/^server-side = \[/,/^]/s/^  "\([^"]*\)".*/\1/p' pyproject.toml)
} >"$environment/server-side.txt"
mv "$environment/server-side.txt" requirements/
