# make train: train on 4 ranks. make test: all tests, serial and under MPI. make docs: build the documentation in site/.
# All install what they need into .venv, MPI included, without root.
#   make train RANKS=2 ARGS="--epochs 3"

PYTHON ?= python3
RANKS ?= 4
ARGS ?=
BIN := .venv/bin
unexport ARGS PYTHON RANKS  # the scripts in launch/ read these variables, and tests run them

.PHONY: train test check docs
train: .venv/train.installed
	$(BIN)/mpirun -n $(RANKS) $(BIN)/python -m distnet.train $(ARGS)

test: .venv/test.installed
	$(BIN)/python tests/run.py $(ARGS)

check: .venv/check.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14

docs: .venv/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distnet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=...")'
	$(PYTHON) -m venv .venv && $@ -m pip --version >/dev/null || { rm -rf .venv; echo "$(PYTHON) -m venv made no pip; on Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/train.installed: EXTRAS := mpich
.venv/test.installed: EXTRAS := mpich,test
.venv/check.installed: EXTRAS := mpich,test,check
.venv/docs.installed: EXTRAS := docs
.venv/%.installed: pyproject.toml setup.py | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@
