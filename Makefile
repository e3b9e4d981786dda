# Two commands are enough: `make quickstart` and `make test`. Both install what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --editable

.PHONY: install quickstart test coverage check docs clean

install: $(STAMP)

# Only the stamp says that the installation was finished, so one that was broken off is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) .
	@touch $@

# What only tests and checks need (lm-eval, transformers …), so that quickstart does not wait for it.
$(DEV_STAMP): $(STAMP)
	$(PIP_INSTALL) '.[dev]'
	@touch $@

quickstart: $(STAMP)
	$(BIN)/epochal quickstart

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Apart from `make test`, since counting lines slows the tests.
coverage: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov epochal --cov-report term:skip-covered

check: $(DEV_STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

$(DOCS_STAMP): $(STAMP)
	$(PIP_INSTALL) '.[docs]'
	@touch $@

# Some pages are written from the code (a test holds them to it); then the site is built into site/.
docs: $(DOCS_STAMP)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) quickstart site .pytest_cache .mypy_cache .ruff_cache .hypothesis
