# Run, test and check the project on Linux x86-64 with Python 3.11: `make run`, `make test`, `make check`.
# Paths are relative, so that the folder may have any name.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

EXTRA ?= cpu# or gpu
EXPERIMENT ?= pipeline/experiments/icons.toml
UV_VERSION := 0.13.9
UV := $(shell command -v uv || echo .tools/bin/uv)
PYTHON := .venv/bin/python
PROJECTS := pyproject.toml models/pyproject.toml components/pyproject.toml pipeline/pyproject.toml
CONFORMANCE := tests/models/proxies/test_logits.py $(patsubst %,tests/models/losses/test_%.py,contract errors oracles policies vectors)
export UV_PYTHON_DOWNLOADS := never
export UV_PYTHON_PREFERENCE := only-system
# Trust the certificates of the system, such as those of a corporate proxy.
export UV_SYSTEM_CERTS := 1
# Each process would compile all the Python it imports: seconds, where TFX and Beam are.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run serve audit test test-all check lint setup data conformance similarity triton clean

help: ## list the targets (default)
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: setup data ## install, build the icon data set, run the whole pipeline on EXPERIMENT (default: icons)
	@.venv/bin/anchorage run $(EXPERIMENT)

serve: setup ## install, build the icon release if there is none, and serve it on http://127.0.0.1:8080
	@[ -e releases/icons/current ] || $(MAKE) --no-print-directory run EXPERIMENT=pipeline/experiments/icons.toml
	@.venv/bin/anchorage serve --release releases/icons

audit: ## look for known vulnerabilities in the locked dependencies; asks the OSV advisory service
	@$(UV) audit --preview-features audit-command --frozen

test: setup lint .venv-jax/installed ## install, lint, run the tests
	@echo '== tests'
	@$(PYTHON) -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not thorough"

test-all: setup lint .venv-jax/installed ## the same with the tests marked thorough: an hour
	@$(PYTHON) -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder --hypothesis-profile thorough

check: setup lint ## install, lint, run the quick tests of `models`
	@$(PYTHON) -m pytest -q --numprocesses auto --dist loadfile -m "not slow and not thorough" tests/models models/anchorage

conformance: setup .venv-jax/installed .venv-torch/installed ## test the losses on TensorFlow, JAX and PyTorch, and write their table
	@rm -rf .conformance
	@for backend in tensorflow jax torch; do \
	  echo "== losses on $$backend"; \
	  environment=.venv; [ $$backend = tensorflow ] || environment=.venv-$$backend; \
	  KERAS_BACKEND=$$backend $$environment/bin/python -m pytest -q -m "not thorough" --conformance .conformance $(CONFORMANCE); \
	done
	@$(PYTHON) tests/models/losses/table.py

similarity: setup .venv-similarity/installed ## test the losses of TensorFlow Similarity by name, in an environment with it
	@.venv-similarity/bin/python -m pytest -q tests/models/losses/test_keras_loss.py

lint: setup
	@echo '== lint, types, import direction'
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy --python-version 3.10 --package anchorage
	@.venv/bin/lint-imports

data: setup ## build the icon data set in data/icons
	@.venv/bin/anchorage data icons

setup: .venv/installed-$(EXTRA) ## only install, into .venv; enough for images of your own

# The environment is up to date if the stamp is newer than the lock file and the project files.
.venv/installed-$(EXTRA): uv.lock $(PROJECTS)
	@echo '== installing the locked environment (extra: $(EXTRA))'
	@command -v $(UV) >/dev/null || { \
	  echo '   uv not found: installing uv $(UV_VERSION) into .tools'; \
	  python3.11 -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@$(UV) sync --frozen --extra $(EXTRA) --python 3.11
	@rm -f .venv/installed-* && touch $@

triton: setup .venv-triton/installed ## test embedding on a real Triton server, in an environment with it
	@$(PYTHON) -m pytest -q tests/pipeline/serving/test_triton.py

.venv-jax/installed: uv.lock $(PROJECTS)
	@echo '== installing Keras on JAX into .venv-jax'
	@UV_PROJECT_ENVIRONMENT=.venv-jax $(UV) sync --frozen --only-group jax --python 3.11
	@touch $@

# PyPI has only the CUDA build of PyTorch for Linux, which takes gigabytes. Use the CPU build if pip can reach it.
.venv-torch/installed: uv.lock $(PROJECTS)
	@echo '== installing Keras on PyTorch into .venv-torch'
	@$(UV) venv --quiet --clear --seed --python 3.11 .venv-torch
	@$(UV) export --quiet --frozen --only-group torch --no-hashes --no-annotate --no-header \
	  | sed -E '/^(cuda|nvidia|triton)/d' >.venv-torch/requirements.txt
	@sed '/^torch=/d' .venv-torch/requirements.txt | $(UV) pip install --quiet --python .venv-torch -r -
	@.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 \
	  --extra-index-url https://download.pytorch.org/whl/cpu -r .venv-torch/requirements.txt
	@touch $@

.venv-similarity/installed: uv.lock $(PROJECTS)
	@echo '== installing the project with TensorFlow Similarity into .venv-similarity'
	@UV_PROJECT_ENVIRONMENT=.venv-similarity $(UV) sync --frozen --extra $(EXTRA) --extra similarity --python 3.11
	@touch $@

# Triton's Python backend reads and answers wrong values if NumPy is of version 2.
.venv-triton/installed: Makefile
	@echo '== installing Triton into .venv-triton'
	@$(UV) venv --quiet --clear --python 3.11 .venv-triton
	@$(UV) pip install --quiet --python .venv-triton 'nvidia-pytriton==0.7.0' 'numpy<2' 'tensorflow-cpu==2.20.0'
	@chmod +x .venv-triton/lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver
	@touch $@

clean: ## remove environment, data, runs and releases
	rm -rf .venv .venv-similarity .venv-jax .venv-torch .venv-triton .tools .conformance data runs releases
