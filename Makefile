# `make` lists the targets. Everything works on a fresh clone: each target makes the environment it needs.

VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The first Python that is new enough; override with `make env PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Installed before everything else: without a pin, pip takes the newest build and gigabytes of CUDA with it.
TORCH  ?= torch==2.13.0
# One thread a process: parallelism comes from tiles, and results do not depend on the number of cores.
SERIAL := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
PYTEST_ARGS ?=

DEMO_SPOTS  ?= 6000
DEMO_STEPS  ?= 200
DEMO_STORE  := demo/embryo.zarr
DEMO_REPORT := demo/report.html

.DEFAULT_GOAL := help
.PHONY: help env demo test slow lint docs real check bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

env: $(STAMP) ## make .venv with everything needed to run, test and document

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on PATH; set PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: env ## simulate a small embryo atlas and fit INSPIRE on it, end to end
	@rm -rf $(DEMO_STORE) $(DEMO_STORE).atlasnmf && mkdir -p demo
	$(BIN)/atlasnmf simulate embryo $(DEMO_STORE) --n-spots $(DEMO_SPOTS) --n-slices 3 --n-genes 600 --n-factors 8 --seed 0
	$(BIN)/atlasnmf fit inspire $(DEMO_STORE) --n-factors 8 --encoder lgcn --steps $(DEMO_STEPS) --memory-budget 2GB --labels domain
	$(BIN)/atlasnmf report $(DEMO_STORE) -o $(DEMO_REPORT)
	@echo "results: $(CURDIR)/$(DEMO_STORE)  (read it with spatialdata, scanpy or napari; or: $(BIN)/atlasnmf info $(DEMO_STORE))"
	@echo "report:  $(CURDIR)/$(DEMO_REPORT)"

test: env ## run the test suite
	$(SERIAL) $(BIN)/python -m pytest $(PYTEST_ARGS)

slow: env ## run the tests that take minutes
	$(SERIAL) $(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

lint: env ## style, types and the import floor plan
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

docs: env ## build the documentation, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs: $(CURDIR)/docs/_build/html/index.html"

real: env ## fit every model on real slices, where the data sets are at hand
	.ci/real_data

check: slow test lint docs demo real ## everything that has to pass before a change lands

bench: env ## run the small benchmarks once (asv suites, current commit)
	cd benchmarks && $(CURDIR)/$(BIN)/asv machine --yes >/dev/null && \
		$(SERIAL) $(CURDIR)/$(BIN)/asv run --python=same --quick --show-stderr --dry-run

clean: ## remove what the other targets made, but not .venv
	rm -rf demo docs/_build docs/api/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
