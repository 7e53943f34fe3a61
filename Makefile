# make demo   the severity method on the embedded phantom -> runs/demo/report.html
# make test   the whole test suite, files shared out to two processes (JOBS=2)
# make check  ruff and the tests that compile nothing: under a minute
# make lint   ruff
# Choose another Python with: make demo PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PY := $(VENV)/bin/python
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(VERSION).txt

.PHONY: demo test check lint clean

demo: $(VENV)/installed
	$(PY) -m gcl_jax.main --config=configs/severity.py:demo --workdir=runs/demo

test: $(VENV)/installed-dev
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: lint
	$(PY) -m pytest -n $(JOBS) -m 'not compiles'

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("gcl_jax needs Python 3.11 or newer, this is %d.%d: make demo PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml $(wildcard $(CONSTRAINTS))
	$(PY) -m pip install -q --disable-pip-version-check $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS)) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PY) -m pip install -q --disable-pip-version-check $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
