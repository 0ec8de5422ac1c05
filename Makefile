PYTHON ?= python3.11
PYTHON312 ?= python3.12
VENV := .venv
VENV_LATEST := .venv-latest
TORCH := torch==2.13.0

# small tensors and several OpenMP threads on busy cores wait for each other
export OMP_NUM_THREADS ?= 1
ifndef MIXVI_DATA_DIR
ifneq ($(wildcard ../shared/data),)
export MIXVI_DATA_DIR := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-latest docs venv clean

demo: $(VENV)/.installed
	$(VENV)/bin/mixvi demo

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest

test-latest: $(VENV_LATEST)/.installed
	$(VENV_LATEST)/bin/python -m pytest

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build -W -b html docs docs/_build/html

venv: $(VENV)/.installed

clean:
	rm -rf $(VENV) $(VENV_LATEST) mixvi-demo docs/_build docs/generated

# torch first: with it in place, no other package brings a larger build of it
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -c constraints.txt $(TORCH)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

$(VENV_LATEST)/.installed: pyproject.toml
	$(PYTHON312) -m venv $(VENV_LATEST)
	$(VENV_LATEST)/bin/python -m pip install -q $(TORCH)
	$(VENV_LATEST)/bin/python -m pip install -q $(TORCH) "scvi-tools>=1.5" -e ".[test]"
	touch $@
