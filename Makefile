# make demo   segment a synthetic sample with the released model (needs no torch)
# make test   lint, types, import rules and tests; the benchmarks run once on next to nothing
#             test-more: longer sweeps, and property tests with new random examples each time; let it run overnight
#             reliability: what proves docs/reliability.md, whole sweeps and soaks too, and its figures; half an hour
#             fuzz: a coverage-guided fuzzer on the readers of TIFF and contracts, FUZZ_SECONDS=60 each
#             audit: known weaknesses of what is installed, asked of the Python Packaging Advisory Database
#             sbom: build/sbom.json, what a release was tested with, in CycloneDX
#             test-napari: the plugin in napari's own viewer, in a process of its own; installs napari and Qt first
# make bench  speed and memory against raw ONNX Runtime and peers, stored and printed; leave the machine alone for
#             twenty minutes. bench-all: larger sections, longer stacks, more peers, on one core too; an hour or two.
#             bench-report: the tables and pictures of docs/ from what is stored. bench-baseline: for CONTRIBUTING.md
# make dist   the wheel of a release, its bill of materials (sbom.json) and their SHA-256, in dist/
# make docs   the site with the demo, in build/site (needs npm, and the network once): every example of a docstring is run,
#             every link and anchor in it followed. linkcheck: whether what the pages link to outside answers; needs the network
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt
# Processes of one thread each (tests/conftest.py): threads wait for each other at every layer, processes do not. One more
# than two cores, since programs that tests start are waited for.
PARALLEL := --numprocesses 3 --dist worksteal
NAPARI := -p npe2 -p pytest-qt -p napari
BASELINE := benchmarks/results/baseline/pytest-benchmark.json

.PHONY: demo test test-more reliability fuzz audit sbom test-napari lint types imports unit bench bench-all bench-baseline bench-report study docs linkcheck dist clean

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

# Also the tests that kill processes elsewhere.
reliability: $(VENV)/.dev
	$(BIN)/pytest tests/faults tests/infer/test_locks.py tests/infer/test_resumed_stack.py tests/infer/volumes/test_blocks.py \
	    -m 'more or not more' --store-figures tests/faults/figures.json $(PARALLEL)
	$(BIN)/python tests/faults/draw_figures.py

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.fuzz
	$(BIN)/python -W ignore tests/fuzz tiff $(FUZZ_SECONDS)
	$(BIN)/python -W ignore tests/fuzz contract $(FUZZ_SECONDS)

# constraints.txt pins what is tested; local versions, such as torch's +cpu, are not in the database.
audit: $(VENV)/.audit
	@mkdir -p build
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict 2> build/audit.log; code=$$?; \
	if grep -q '^Traceback\|could not be audited' build/audit.log; then \
	    echo "audit: the advisory database cannot be asked about every pin, so nothing is known; see build/audit.log" >&2; exit 2; \
	else cat build/audit.log >&2; exit $$code; fi

SBOM := build/sbom.json
sbom: $(VENV)/.audit
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o $(SBOM)

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

docs: $(VENV)/.docs
	@$(BIN)/python -m docs.builder build/site

linkcheck: $(VENV)/.docs
	@$(BIN)/python -m docs.builder --outside

dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation
	$(MAKE) sbom SBOM=dist/sbom.json
	cd dist && sha256sum *.whl sbom.json > SHA256SUMS && cat SHA256SUMS

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
	@touch $@ $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.napari: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[dev,napari]' PySide6_Essentials pytest-qt
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.fuzz: $(SOURCES) $(VENV)/.dev | $(VENV)/bin/python
	$(PIP) --editable '.[fuzz]'
	@touch $@

$(VENV)/.audit: $(SOURCES) $(VENV)/.dev | $(VENV)/bin/python
	$(PIP) --editable '.[audit]'
	@touch $@

$(VENV)/.bench: $(SOURCES) | $(VENV)/bin/python
	$(PIP) --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
