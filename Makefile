# Everyday commands. `make check` before each commit, `.ci/run` before each request.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: help check lint test full bench

help:
	@echo "make check   linters, types and the default tests"
	@echo "make lint    ruff, ruff format --check, mypy"
	@echo "make test    the default tests"
	@echo "make full    all tests but those marked slow"
	@echo "make bench   the short form of every benchmark"

check: lint test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -q -n auto

full:
	$(PYTHON) -m pytest -q -n auto --full

bench:
	$(PYTHON) -m bench
