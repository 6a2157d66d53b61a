# `make demo` runs the main job on a fresh machine, `make test` the tests; both build the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: venv demo test check format leaderboard clean

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/python bench/run.py
	$(BIN)/python scripts/leaderboard.py

test: venv
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

leaderboard: venv
	$(BIN)/python scripts/leaderboard.py

clean:
	rm -rf $(VENV) build *.egg-info
