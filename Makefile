# make demo   segment a synthetic sample with the released model (needs no torch)
# make test   lint, types, import rules and tests; the benchmarks run once on next to nothing
#             test-more: longer sweeps, and property tests with new random examples each time; let it run overnight
#             test-napari: the plugin in napari's own viewer, in a process of its own; installs napari and Qt first
# make bench  speed and memory against raw ONNX Runtime and peers, stored and printed; leave the machine alone for
#             twenty minutes. bench-all: larger sections, longer stacks, more peers, on one core too; an hour or two.
#             bench-report: the tables and pictures of docs/ from what is stored. bench-baseline: for CONTRIBUTING.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt
# Two processes of one thread each (tests/conftest.py): threads wait for each other at every layer, processes do not.
PARALLEL := --numprocesses 2 --dist worksteal
NAPARI := -p npe2 -p pytest-qt -p napari
BASELINE := benchmarks/results/baseline/pytest-benchmark.json

.PHONY: demo test test-more test-napari lint types imports unit bench bench-all bench-baseline bench-report study clean

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
	$(BIN)/pytest tests benchmarks --benchmark-disable $(PARALLEL)

test-more: $(VENV)/.dev
	$(BIN)/pytest tests -m 'more or hypothesis' --hypothesis-profile nightly $(PARALLEL)

test-napari: $(VENV)/.napari
	QT_QPA_PLATFORM=offscreen $(BIN)/pytest tests/napari -W default $(NAPARI)

bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks --rounds 3 --store; failed=$$?; $(BIN)/python -m benchmarks.report --print; exit $$failed

bench-all: $(VENV)/.bench
	$(BIN)/pytest benchmarks --full --store
	$(BIN)/pytest benchmarks/bench_peers.py -k ratio --full --one-core --store
	$(BIN)/pytest benchmarks/bench_memory.py -k command_line --precision int8 --store
	@$(BIN)/python -m benchmarks.report --print

bench-baseline: $(VENV)/.bench
	@mkdir -p $(dir $(BASELINE))
	$(BIN)/pytest benchmarks -k 'not (ratio or memory or networks or limits)' --size 1024 --benchmark-json=$(BASELINE)

bench-report: $(VENV)/.dev
	$(BIN)/python -m benchmarks.report

study: $(VENV)/.dev
	$(BIN)/python -m benchmarks.studies.networks --store

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.version.split()[0]} found; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.napari: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[dev,napari]' PySide6_Essentials pytest-qt
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.bench: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
