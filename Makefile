# make demo   segment a synthetic sample with the released model (needs no torch)
# make test   lint, types, import rules and tests; the benchmarks run once on next to nothing
# make bench  speed and memory against raw ONNX Runtime and peers, stored; leave the machine alone for ten minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test lint types imports unit bench bench-report clean

demo: $(VENV)/.demo
	@$(BIN)/python -m isbi_infer.demo build/demo

test: lint types imports unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@mkdir -p build/types
	@ln -sfn ../../export build/types/isbi_export
	@ln -sfn ../../models build/types/isbi_models
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest tests benchmarks --benchmark-disable

bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks --rounds 3 --store

bench-report: $(VENV)/.dev
	$(BIN)/python -m benchmarks.report

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.version.split()[0]} found; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
