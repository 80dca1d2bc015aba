# make demo         installs into .venv and runs the main job: trainings, two tables, two pictures
# make demo FAST=1  the same in a minute, to see that it works
# make test-fast    installs and runs the quick tests: what one runs after every change
# make test         installs and runs all tests
# make check        formatting, lint and types
# make docs         installs and builds the pages into site/; open site/index.html
# make maml         installs what the agent maml needs; `make test` tries that by itself
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# one process a core, eight at most: each needs a gigabyte
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

# constraints.txt pins the tested versions, without choosing what is installed
.venv/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[$*]'
	touch $@

# learn2learn has no wheels and its C files are of an older Python, so Cython makes them anew. --no-deps keeps out what
# it asks for and MAML does not import (qpth, cvxpy, gsutil), and the package by which gym complains of its age.
.venv/.maml: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[maml]'
	CYTHON_FORCE_REGEN=1 $(INSTALL) --no-deps --no-build-isolation --use-pep517 \
		--config-settings=--build-option=build_ext gym learn2learn
	touch $@

# once: without a compiler or a network the other tests still run, and do not wait for it each time
.venv/.maml-tried: pyproject.toml constraints.txt | .venv/.dev
	@echo "installing learn2learn for MAML, which takes some minutes the first time"
	@$(MAKE) --no-print-directory .venv/.maml >.venv/maml.log 2>&1 \
		|| echo "learn2learn could not be installed (.venv/maml.log tells why): the tests of MAML will skip"
	@touch $@
