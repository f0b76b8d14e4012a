# make demo | test | test-all | lint | notebooks : each does its own set-up in .venv
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: install demo test test-all lint notebooks clean

install: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m pyro_bayesprune.demo

test: install
	$(PYTEST) -m "not slow and not dask and not browser"

test-all: install lint
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: install
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
