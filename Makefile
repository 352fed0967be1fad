# make demo: train, evaluate and draw in one go.  make test: the whole suite.  Both make the environment if needed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint env clean

demo: $(VENV)/.ready
	$(RUN)/gps-seg demo --out runs/demo

test: $(VENV)/.ready
	$(RUN)/python -m pytest

lint: $(VENV)/.ready
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "making the environment in $(VENV) (about a minute, once)"
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[app,dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs
