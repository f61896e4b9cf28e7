# `make demo` and `make test` work on a machine with only Python (>= 3.11) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup test check demo up down bench clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

demo: setup
	$(BIN)/python -m deployments demo --keep

up: setup
	$(BIN)/python -m deployments up

down: setup
	$(BIN)/python -m deployments down

# JSON=FILE keeps the figures.
bench: setup
	$(BIN)/python -m tests.bench.speed $(if $(JSON),--json $(JSON))

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
