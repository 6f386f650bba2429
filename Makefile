# Each target does its own set-up: Python 3.11 and make are all that has to be there.

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3))
VENV := .venv
READY := $(VENV)/.ready

# Only this clone's own programs, whatever environment the caller is in.
unexport VIRTUAL_ENV PYTHONPATH
export VENV

# Container tests that `make test` leaves to `make test-matrix`.
LEFT_OUT ?= matrix and not small

# One test process per core, in the order of the files. SEED=N shuffles the tests by that seed and
# SEED=default by a new one; pytest prints it.
SEED ?=
PYTEST := $(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 \
	$(if $(SEED),-p randomly --randomly-seed $(SEED))

# Where they go, and the environment to try them in, of about 5 GB.
GPU_KIT ?= gpu-kit
BARE_VENV ?= .bare-venv

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit containers test-matrix images lock gpu gpu-kit clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY) ## train a small Llama on Python's own docstrings, and ask it before and after
	@examples/demo/demo.sh

test: ## lint, unit tests, then container tests against a real engine, a few of the matrix too
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory containers

lint: $(READY) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: $(READY) ## tests that need no engine
	$(PYTEST) tests/unit

containers: images ## tests in both images, for real
	$(PYTEST) tests/containers -m "not ($(LEFT_OUT))"

test-matrix: images ## every algorithm on both backends, full and LoRA, learns a toy; and wider cases
	$(PYTEST) tests/containers -m matrix

images: $(READY) ## build every image that is not up to date; starts an engine as root on Debian
	@scripts/engine.sh
	$(VENV)/bin/aligntune-run images build

lock: $(READY) ## compile the locks anew and measure facts.json
	@scripts/engine.sh
	$(VENV)/bin/python images/refresh.py

gpu: images ## everything that must be shown on a GPU, in the images; minutes
	bash tests/gpu/run.sh

gpu-kit: $(READY) ## gather the wheels that tests/gpu needs on a GPU machine without network
	@BARE_VENV=$(BARE_VENV) scripts/gpu_kit.sh $(GPU_KIT)

clean: ## remove what the other targets made, except images
	rm -rf $(VENV) .bare-venv gpu-kit demo-run build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml scripts/venv.sh
	@scripts/venv.sh $(VENV) $(PYTHON)
	@touch $@
