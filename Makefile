# Needs Python 3.11 or later with its venv module, git and make; everything else goes into .venv.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Workers of pytest: "auto" is two per processor, and one for each above four.
WORKERS ?= auto
# More for pytest: make test ARGS='tests/cli -k sync'
ARGS ?=

.PHONY: demo test crash histories check bench docs clean

demo: $(VENV)/.all
	$(BIN)/crossdock demo

test: $(VENV)/.test
	$(BIN)/python -m tests.servers fetch || echo "make test: goes on without the servers named above"
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# Engines killed at every step, so many times in all: make crash RUNS=10000. CROSSDOCK_SEED repeats a run.
RUNS ?= 1000
CROSSDOCK_SEED ?= $(shell date +%s)
crash: $(VENV)/.test
	CROSSDOCK_SEED=$(CROSSDOCK_SEED) CROSSDOCK_KILLS=$(RUNS) $(BIN)/python -m pytest -n $(WORKERS) -s tests/crash/test_flows.py $(ARGS)

# Long random histories against a model of what must come of them: make histories RUNS=10000.
histories: $(VENV)/.test
	CROSSDOCK_SEED=$(CROSSDOCK_SEED) CROSSDOCK_HISTORIES=$(RUNS) $(BIN)/python -m pytest -n $(WORKERS) -s tests/histories $(ARGS)

check: $(VENV)/.check $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

docs: $(VENV)/.all
	$(BIN)/python docs/reference.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.servers/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; pass PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	# `pip install --group` came with pip 25.1.
	$(PIP) install --upgrade 'pip>=25.1'

$(VENV)/.all: $(BIN)/python pyproject.toml
	$(PIP) install --editable '.[all]'
	@touch $@

$(VENV)/.test $(VENV)/.check $(VENV)/.bench: $(VENV)/.%: $(VENV)/.all
	$(PIP) install --group $*
	@touch $@
