PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo app test test-slow lint constraints

help:
	@echo "make install   .venv with everything that development needs"
	@echo "make demo      a study of the embedded rooms; its report is runs/demo/report.html"
	@echo "make app       a page in the browser to find an effect by hand; studies go to runs/"
	@echo "make test      the quick tests (TESTS='tests/estimation -k gain' runs some)"
	@echo "make test-slow the tests that take longer: killed runs, a cluster, memory"
	@echo "make lint      ruff and mypy"

install: $(VENV)/.dev

# A finished identical run is reported again, an interrupted one goes on: `gandid run` decides, and
# refuses a folder that is not a run.
demo: $(VENV)/.runtime
	$(VENV)/bin/gandid run --latents 128 --out runs/demo

app: $(VENV)/.app
	$(VENV)/bin/gandid app --runs runs

# Two processes keep two cores busy: threads of theirs would only wait for each other.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(TESTS)

test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m slow $(TESTS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

constraints: $(VENV)/.dev
	$(VENV)/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

# The stamps lie in .venv, so that deleting it makes everything anew; the full one counts as the small one.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gandid into $(VENV) (some minutes the first time)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.app: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gandid and its page into $(VENV) (some minutes the first time)"
	$(PIP) --editable '.[app]'
	@touch $(VENV)/.runtime $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gandid and its development tools into $(VENV) (some minutes the first time)"
	$(PIP) --editable '.[dev]'
# Networks of others, to test with. What they name as their requirements would bring in another PyTorch.
	$(PIP) --no-deps 'pro-gan-pth==3.4' 'gan-face-generate==1.1.1'
	@touch $(VENV)/.runtime $(VENV)/.app $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gandid needs Python 3.11 or later; name one with: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
