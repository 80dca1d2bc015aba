# make demo         installs into .venv and runs the main job: trainings, two tables, two pictures
# make demo FAST=1  the same in a minute, to see that it works
# make test         installs and runs the tests
# make check        formatting, lint and types
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check
demo: .venv/.demo
	$(BIN)/snail demo $(if $(filter-out 0,$(FAST)),--fast)

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# constraints.txt pins the tested versions, without choosing what is installed
.venv/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@
