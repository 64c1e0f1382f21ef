# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/tested.txt
PYTEST_ARGS ?=
# Many tests wait for a process or a broker, so more workers than processors.
WORKERS ?= 4
SLOW_WORKERS ?= 2

WHEELS := build/tensorrt-wheels
TENSORRT := 10.3.0 10.16.1.11 11.4.0.106

.PHONY: help demo test test-slow test-all lint format docs bench clean

help:  ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.workstation  ## Train, export and listen to a synthetic machine (minutes on a CPU).
	$(BIN)/edgeasd demo

test: $(VENV)/.dev  ## The default test suite.
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## The tests that take minutes: full ResNet38, whole demo, every set of versions.
	$(BIN)/python -m pytest -m slow -n $(SLOW_WORKERS) --dist worksteal $(PYTEST_ARGS)

# Read, not installed: a test looks up every name we use of TensorRT in the versions we support.
$(WHEELS): $(VENV)/bin/python
	@mkdir -p $@.part
	for version in $(TENSORRT); do \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
	    --dest $@.part "tensorrt-cu12-bindings==$$version" || exit 1; done
	@mv $@.part $@

test-all: test test-slow  ## Both.

lint: $(VENV)/.dev .typing  ## Linter, formatter and type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Put the code into the house format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## The documentation as web pages in build/docs; a broken link or page is an error.
	$(BIN)/mkdocs build --quiet --strict --site-dir build/docs

bench: $(VENV)/.dev  ## All benchmarks, medians and ratios side by side.
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## Remove the virtual environment and everything made by tools.
	rm -rf $(VENV) .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The type checker cannot follow the editable install's mapping; links show it the installed layout.
.typing: Makefile
	rm -rf .typing && mkdir -p .typing/edgeasd
	cd .typing/edgeasd && ln -s ../../toolkit/_root/* ../../toolkit ../../export ../../runtime ../../calibration .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch is asked for by its exact version first: an unpinned request may bring gigabytes of CUDA to a CPU box.
$(VENV)/.workstation: $(VENV)/bin/python pyproject.toml constraints/tested.txt
	$(PIP) torch
	$(PIP) -e '.[train,export]'
	@touch $@

$(VENV)/.dev: $(VENV)/.workstation
	$(PIP) -e '.[train,export,cluster,serve,tensorrt,check,dev]'
# Types and a schema to check against; what they say they need (TensorRT itself, older libraries) they do not.
	$(PIP) --no-deps tensorrt-stubs tritonclient
	@touch $@
