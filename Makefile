# All tasks of this checkout; `make` lists them. CI calls only these targets.
#
# Variables:  PYTHON=python3.12   interpreter that creates .venv (first time only)
#             JOBS=4              test processes (default: one per core, at most 8)
#             ARGS="..."          passed to pytest, the demo or a benchmark

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
JOBS ?= $(shell echo $$(( $(CORES) < 8 ? $(CORES) : 8 )))
ARGS ?=

# Nothing here contacts the hub. Tests run one process per core, so each process gets one thread.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(PY) -m pytest
PIP := $(PY) -m pip --no-input
BENCHES := $(wildcard benchmarks/speed/compress.py benchmarks/speed/read.py benchmarks/speed/import_time.py)

.PHONY: help setup demo demo-live test check test-full bench bench-quality verify-gpu figures docs dist clean

help: ## list the targets (default)
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' Makefile | expand -t 18

# --- environment -------------------------------------------------------------------------------------------------

setup: $(VENV)/.installed ## create .venv with pinned versions (all other targets do this when needed)
	@echo "[setup] $(VENV) is ready"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "OmniSIFT needs Python 3.10 or newer; '$(PYTHON)' is not. Do: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "[setup] creating $(VENV) with $$($(PYTHON) --version)"
# Some systems ship Python without ensurepip; then the caller's pip installs pip into the new environment.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install --quiet pip; }

# An order-only prerequisite, because the interpreter must exist but its date does not matter.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "[setup] installing OmniSIFT and its dependencies into $(VENV), versions from constraints.txt"
	@[ -e $@ ] || echo "[setup] the first time downloads about 3 GB (PyTorch); this takes one to ten minutes without further output"
	@start=$$(date +%s); \
	$(PIP) install -qq -c constraints.txt -e '.[dev]'; \
	echo "[setup] installed in $$(( $$(date +%s) - start )) s"; touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "[setup] installing the documentation tools"
	@$(PIP) install -qq -c constraints.txt -e '.[docs]'; touch $@

# --- the commands to try first -----------------------------------------------------------------------------------

demo: $(VENV)/.installed ## make a clip and answer three questions with all tokens, with 25 % and with a random 25 %
	@echo "[demo] omnisift demo $(ARGS)"
	@$(VENV)/bin/omnisift demo $(ARGS)

demo-live: $(VENV)/.installed ## play a clip of two minutes as a stream, and ask three questions while it runs
	@echo "[demo-live] omnisift demo --live $(ARGS)"
	@$(VENV)/bin/omnisift demo --live $(ARGS)

test: $(VENV)/.installed ## run the test suite (no network, no GPU); ARGS="-k budget" selects tests
	@echo "[test] pytest on $(JOBS) processes, without the slow suites (make test-full runs them)"
	@$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

# --- quality -----------------------------------------------------------------------------------------------------

check: $(VENV)/.installed ## check formatting, lint, types and import directions
	@echo "[check] ruff format";  $(PY) -m ruff format --check --quiet .
	@echo "[check] ruff lint";    $(PY) -m ruff check --quiet .
	@echo "[check] mypy strict";  $(PY) -m mypy --no-error-summary
	@echo "[check] import directions"; $(PYTEST) -q tests/test_imports.py

test-full: check test docs ## run everything: check, test, docs, and all sessions of noxfile.py (30 GB in .nox, an hour)
	@echo "[test-full] nox: slow tests, Ray, DeepSpeed, browser, quantised models, ms-swift, lmms-eval, vLLM, wheel"
	@$(VENV)/bin/nox

# --- benchmarks and figures; benchmarks/README.md lists the other benchmarks -------------------------------------

bench: $(VENV)/.installed ## measure speed and memory: one JSON line each for compression, reading, import
	@for script in $(BENCHES); do \
	  echo "[bench] $$script" >&2; $(ONE_THREAD) $(PY) $$script $(ARGS); done

bench-quality: $(VENV)/.installed ## measure the accuracy of all methods; RECIPE=recipes/pairs.yaml is another table (docs/benchmark.md)
	@$(VENV)/bin/omnisift bench-quality $${RECIPE:-recipes/wide.yaml} $(ARGS)

# It needs torch, Transformers, typer and rich, but no installation of this checkout: without .venv, PYTHON runs it.
verify-gpu: ## check and measure the library on a GPU with random weights, into benchmarks/results/gpu.json (docs/gpu.md)
	@PYTHONPATH=src$${PYTHONPATH:+:$$PYTHONPATH} $(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m omnisift.cli verify \
	  --time-limit 330 --output $${OUT:-benchmarks/results}/gpu.json $(ARGS)

figures: $(VENV)/.installed ## draw the figures of README and docs from generated clips and committed results, into docs/figures
	@mkdir -p docs/figures; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(VENV)/bin/omnisift make-clip "$$folder/clip.mp4" --setting wide --seed 3 >/dev/null; \
	$(VENV)/bin/omnisift inspect "$$folder/clip.mp4" "What colour is the square?" --model src/omnisift/checkpoints/wide \
	  --retain 0.1 --compare random --png docs/figures/kept.png --force
	@$(PY) benchmarks/figures/method_figure.py docs/figures/method.svg
	@$(PY) benchmarks/figures/quality_figure.py docs/figures/quality.svg
	@$(PY) benchmarks/figures/wide_figure.py docs/figures/wide.png
	@ls -l docs/figures

# --- building ----------------------------------------------------------------------------------------------------

docs: $(VENV)/.installed-docs ## build the documentation site into site/
	@echo "[docs] mkdocs build --strict"
	@export REPOSITORY_URL="$${REPOSITORY_URL-$$(git remote get-url origin 2>/dev/null | sed -n 's/\.git$$//; /^https:[^@]*$$/p')}"; \
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet --config-file mkdocs.yml
	@echo "[docs] site/index.html"

dist: $(VENV)/.installed ## build wheel and sdist into dist/
	@rm -rf dist
	@echo "[dist] python -m build"
	@$(PY) -m build --no-isolation >/dev/null
	@ls -l dist

clean: ## remove all build outputs and the environments of nox (not .venv)
	@rm -rf dist build site .nox .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	@echo "[clean] done; to remove the environment as well: rm -rf .venv"
