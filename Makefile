# make demo         installs into .venv, trains 7 agents, prints two tables and draws two figures
# make demo FAST=1  the same in a minute, with meaningless numbers
# make test-fast    installs and runs the quick tests, for use after every change
# make test         installs and runs all tests
# make check        formatting, lint and types
# make docs         installs and builds the pages into site/; open site/index.html
# make maml         installs learn2learn for the agent maml; `make test` tries this automatically
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# one process per core, at most eight: each needs a gigabyte
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-fast check docs maml
demo: .venv/.demo
	$(BIN)/snail demo $(if $(filter-out 0,$(FAST)),--fast)

test: .venv/.dev .venv/.maml-tried
	$(PYTEST)

test-fast: .venv/.dev
	$(PYTEST) -m "not slow and not exhaustive"

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

maml: .venv/.maml

# constraints.txt pins the tested versions; pyproject.toml chooses the packages
.venv/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[$*]'
	touch $@

# learn2learn has no wheels and its C files are for an older Python, so Cython regenerates them. --no-deps skips packages
# that MAML does not import (qpth, cvxpy, gsutil), and gym's deprecation notices.
.venv/.maml: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[maml]'
	CYTHON_FORCE_REGEN=1 $(INSTALL) --no-deps --no-build-isolation --use-pep517 \
		--config-settings=--build-option=build_ext gym learn2learn
	touch $@

# tried once: without a compiler or network, the other tests still run
.venv/.maml-tried: pyproject.toml constraints.txt | .venv/.dev
	@echo "installing learn2learn for MAML, which takes a few minutes the first time"
	@$(MAKE) --no-print-directory .venv/.maml >.venv/maml.log 2>&1 \
		|| echo "learn2learn could not be installed (see .venv/maml.log): the tests of MAML are skipped"
	@touch $@
