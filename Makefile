# Two commands are enough: `make quickstart` and `make test`. Both install what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
# What Python compiles is kept, also in images that are set to forget it: hundreds of processes start.
export PYTHONDONTWRITEBYTECODE :=

# Without --no-compile pip compiles thousands of modules that nothing here imports, half of its time.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	--constraint constraints.txt --editable
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
CHECK_INDEX := $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 10 --dry-run \
	--ignore-installed --no-deps hatchling >/dev/null 2>&1 || { echo >&2 "error: pip finds no package index; its settings, PIP_INDEX_URL and HTTPS_PROXY say where it looks"; exit 1; }

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart test tests coverage check docs clean

install: $(STAMP)

# Only the stamp says that the installation was finished, so one that was broken off is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	@$(CHECK_INDEX)
	@echo 'installing 1.2 GB, most of it torch: minutes on a slow or busy machine'
	$(PIP_INSTALL) .
	@touch $@

# With what only tests and checks need (lm-eval, transformers …), for which quickstart does not wait.
$(DEV_STAMP): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	@$(CHECK_INDEX)
	$(PIP_INSTALL) '.[dev]'
	@touch $(STAMP) $@

quickstart: $(STAMP)
	$(BIN)/epochal quickstart

# mypy runs beside the tests, since it takes one core a minute.
test: $(DEV_STAMP)
	@$(MAKE) --no-print-directory --jobs 2 check tests

tests: $(DEV_STAMP)
	$(PYTEST)

# Apart from `make test`, since counting lines slows the tests.
coverage: $(DEV_STAMP)
	$(PYTEST) --cov epochal --cov-report term:skip-covered

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
