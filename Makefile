# Commands for a fresh machine and for daily work. `make` lists them.
#
#   PYTHON=python3.11   the CPython that makes the environment (3.10 to 3.12)
#   VENV=.venv          the environment, made when it is needed
#   WORKERS=2           test processes at a time

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(abspath $(VENV))/bin
LOCK := requirements/constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK)
DEBIAN := apt install make python3-venv libpython3-dev

# Unit tests that need no server, no data set and no minutes.
UNIT_TESTS := tests/client tests/builders/test_spec.py tests/builders/test_shape.py \
	tests/test_language.py tests/test_project.py

.PHONY: help
help:  ## Show this list.
	@echo "Prerequisites on Debian or Ubuntu: $(DEBIAN)"
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1 \2/p' $(MAKEFILE_LIST) \
		| while read -r make target text; do printf '  make %-8s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: $(VENV)/.installed-demo  ## Build, serve, ask and draw demo.jpg; faces are trained.
	@PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m builders demo --temporary

.PHONY: serve
serve: $(VENV)/.installed-demo  ## Build the CPU models and serve them until Ctrl-C.
	@$(BIN)/python -m builders build --target cpu
	@$(BIN)/python -m builders serve

.PHONY: test
test: $(VENV)/.installed-dev  ## Run every test, and lint, types and import contracts.
	@PATH=$(BIN):$$PATH $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: check
check: $(VENV)/.installed-dev  ## Lint, types, import contracts and unit tests: under 2 minutes.
	@PATH=$(BIN):$$PATH $(BIN)/python -m builders render --check
	@PATH=$(BIN):$$PATH $(BIN)/python -m pytest -q $(UNIT_TESTS)

.PHONY: format
format: $(VENV)/.installed-dev  ## Format the code and sort its imports.
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

.PHONY: lock
lock: $(VENV)/.installed-dev  ## Write requirements/ again, from what pip finds today.
	@PYTHON=$(PYTHON) requirements/lock.sh

.PHONY: clean
clean:  ## Remove the environment and what tools have cached.
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# ---- the environment ------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "error: personserve needs CPython 3.10, 3.11 or 3.12, but $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1 || echo missing); choose one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make environments: $(DEBIAN)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# An editable install, less the metadata folder that setuptools leaves in the tree.
$(VENV)/.installed-%: pyproject.toml $(LOCK) | $(BIN)/python
	@echo "installing personserve[$*] into $(VENV) (pip downloads what is not cached) ..."
	@$(INSTALL) -e ".[$*]"
	@rm -rf client/personserve.egg-info build
	@touch $@

# The same by uv, if it can be had: 26 s of CPU time for 220 packages, downloads included.
$(VENV)/.installed-dev: pyproject.toml $(LOCK) requirements/install.py | $(BIN)/python
	@echo "installing personserve[dev] into $(VENV) (uv downloads what is not cached) ..."
	@$(BIN)/python requirements/install.py dev
	@rm -rf client/personserve.egg-info build
	@touch $@
