PYTHON ?= python3
VENV ?= .venv
VENV_NEWEST ?= .venv-newest
TORCH := torch==2.13.0
# the first that installs dependency groups
PIP := pip>=25.1

# small tensors and several OpenMP threads on busy cores wait for each other
export OMP_NUM_THREADS ?= 1
ifndef MIXVI_DATA_DIR
ifneq ($(wildcard ../shared/data),)
export MIXVI_DATA_DIR := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-newest docs venv python clean

demo: $(VENV)/.installed
	$(VENV)/bin/mixvi demo

test: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -n 2

# what users will have next: newest releases of everything, pre-releases among them
test-newest: $(VENV_NEWEST)/.test
	$(VENV_NEWEST)/bin/python -m pytest -n 2

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build -W -b html docs docs/_build/html

venv: $(VENV)/.installed

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || { \
	  echo "mixvi needs Python 3.12 or later, which $(PYTHON) is not:" \
	    "install one, or name it, as in make test PYTHON=python3.12." >&2; exit 1; }

clean:
	rm -rf $(VENV) $(VENV_NEWEST) mixvi-demo docs/_build docs/generated

# torch first: with it in place, no other package brings a larger build of it
$(VENV)/.installed: pyproject.toml constraints.txt | python
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --upgrade "$(PIP)"
	$(VENV)/bin/python -m pip install -q -c constraints.txt $(TORCH)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt --group lint --group test
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt --group docs
	touch $@

$(VENV_NEWEST)/.test: pyproject.toml | python
	$(PYTHON) -m venv $(VENV_NEWEST)
	$(VENV_NEWEST)/bin/python -m pip install -q --upgrade "$(PIP)"
	$(VENV_NEWEST)/bin/python -m pip install -q --upgrade --pre -e . --group test
	touch $@
