# make demo    what rnnscope says about 3 4 5 (like the others, it first sets up what it needs)
# make test    the tests, the doctests and the notebooks
# make test-all   these and the longer ones
# make lint    ruff (lint and format), mypy, import-linter
# make check   lint, then test: what CI runs
# make bench   what every number costs, beside the layer, a loop and jax: benchmarks/RESULTS.md
# make docs    the site, which needs no network: build/site/index.html
# make pictures   the pictures of README and docs; those of the page need a browser
# make clean   removes the virtual environment and every cache

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# An interpreter that you name is used or refused; otherwise the first one that is new enough.
PYTHON ?= python3
ifeq ($(origin PYTHON),file)
candidates := python3 python3.11 python3.12 python3.13 python3.14
else
candidates := $(PYTHON)
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint check bench docs pictures clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/runtime.stamp
	@$(BIN)/rnnscope explain 3 4 5

test: $(VENV)/dev.stamp
	@# a worker a core, each with one thread: the many small products gain nothing from more
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow"

test-all: $(VENV)/dev.stamp $(VENV)/docs.stamp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(VENV)/dev.stamp
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict src
	$(BIN)/lint-imports --no-logo

check: lint test

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/speed.py

docs: $(VENV)/docs.stamp
	@# the theme advertises its successor
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@$(BIN)/python docs/links.py build/site
	@echo "build/site/index.html"

pictures: $(VENV)/dev.stamp
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml or constraints.txt when there is something to install.
# The build backend is installed here, not by pip in a place of its own, so that it is pinned too.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt
	@chosen=; for python in $(candidates); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then chosen="$$python"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	    echo "rnnscope needs Python 3.11 or newer. Tried: $(candidates)." >&2; \
	    echo "$(firstword $(candidates)) is: $$($(firstword $(candidates)) --version 2>&1 | head -n 1)" >&2; \
	    echo "Install one, or say where it is: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$chosen" --version): once, and again when the dependencies change" >&2; \
	"$$chosen" -m venv $(VENV)
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo "Installing what the tests need" >&2
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@# trained layers to open, and judges; what they depend on is not needed for that
	@$(PIP) --no-deps g2p-en reactionrnn silero-vad onnxruntime flatbuffers \
	    axe-playwright-python keras absl-py namex optree opacus minGRU-pytorch ncps
	@touch $@

$(VENV)/bench.stamp: $(VENV)/runtime.stamp
	@echo "Installing what is measured beside it" >&2
	@$(PIP) --no-build-isolation --editable '.[fast,bench]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/runtime.stamp
	@echo "Installing what the site needs" >&2
	@$(PIP) --no-build-isolation --editable '.[docs]'
	@touch $@
