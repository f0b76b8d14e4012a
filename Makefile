# make demo | test | test-all | test-arviz | test-oldest | attack | lint | dist | docs | notebooks : each does its own set-up in .venv
PYTHON ?= python3
# Idle threads of torch sleep. Otherwise a program becomes many times slower beside another one.
export OMP_WAIT_POLICY ?= PASSIVE
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: install demo test test-all test-arviz test-oldest attack lint dist docs notebooks clean

# TORCH=cpu installs PyTorch's CPU build, which is much smaller than the default one.
.venv/base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install -q torch torchvision --index-url https://download.pytorch.org/whl/cpu
endif
	$(BIN)/python -m pip install -q -e .
	touch $@

install: .venv/installed

.venv/installed: .venv/base
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: .venv/base
	$(BIN)/python -m pyro_bayesprune.cli.demo

test: install
	$(PYTEST) -m "not slow and not dask and not browser"

test-all: install lint test-arviz
	$(PYTEST)

# The fast tests with the oldest versions that pyproject.toml allows (uv chooses them; some GB).
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -m "not slow and not dask and not browser"

.venv-oldest/installed: pyproject.toml
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q uv
	.venv-oldest/bin/uv pip install -q --python .venv-oldest/bin/python --compile-bytecode \
		--resolution lowest-direct -e '.[dev]'
	touch $@

# The module for ArviZ with ArviZ 1, which needs Python 3.12. The environment has no torch.
ARVIZ_PYTHON ?= $(firstword $(foreach python,python3.12 python3.13 $(wildcard $(HOME)/.pyenv/versions/3.1[23]*/bin/python),\
	$(shell $(python) -c 'print("$(python)")' 2>/dev/null)))
ARVIZ_TESTS := tests/diagnostics/test_arviz.py

test-arviz:
ifeq ($(ARVIZ_PYTHON),)
	@echo "SKIPPED $(ARVIZ_TESTS) with ArviZ 1: there is no Python 3.12 (set ARVIZ_PYTHON)"
else
	test -x .venv-arviz/bin/python || $(ARVIZ_PYTHON) -m venv .venv-arviz
	.venv-arviz/bin/python -m pip install -q "arviz>=1.1,<2" h5netcdf h5py lazy-loader pytest
	.venv-arviz/bin/python -m pytest --noconftest $(ARVIZ_TESTS)
endif

# reports/reliability.md; a quarter of an hour
attack: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/attack.py --out reports/reliability.md

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The wheel and the source distribution, and the wheel in an environment of its own.
dist: install
	rm -rf dist
	$(BIN)/python -m build -q --outdir dist .
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/python -m pip install -q dist/*.whl
	cd dist && venv/bin/bayesprune --version && venv/bin/bayesprune run --dataset digits --epochs 1

docs: install
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build/html
	@echo docs/_build/html/index.html

notebooks: install
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf .venv .venv-arviz .venv-oldest build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
