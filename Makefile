# Every target sets itself up: Python 3.11 to 3.13 and make are all that a fresh machine needs.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile -c constraints.txt
DEMO := examples/demo.yaml

.PHONY: help demo test lint type bench accuracy docs wheel constraints clean

help:
	@echo "make demo      simulate a small deployment and write its report"
	@echo "make test      run all tests"
	@echo "make lint      check style            make type      check types"
	@echo "make bench     measure speed          make accuracy  compare with measured runs, write docs/accuracy.md"
	@echo "make docs      write the generated pages of docs/"
	@echo "make wheel     build dist/            make clean     remove what these made"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/servetwin run $(DEMO)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.runtime
	$(BIN)/python -m servetwin.experiment.bench

accuracy: $(VENV)/.dev
	$(BIN)/servetwin accuracy

docs: $(VENV)/.runtime
	$(BIN)/python -m servetwin.scenario.reference docs/scenario.md
	$(BIN)/python -m servetwin.llm.reference docs/models.md

wheel: $(VENV)/.dev
	$(BIN)/python -m build --outdir dist

constraints: $(VENV)/.dev
	{ head -n 1 constraints.txt; $(BIN)/python -m pip --disable-pip-version-check list --format=freeze --exclude-editable \
		| grep -vE '^(pip|setuptools)=='; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) dist build runs bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis
