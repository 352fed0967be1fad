# make demo: train, evaluate and draw in one go.  make test: the whole suite.  Both make the environment if needed: the demo
# installs the package alone, all else adds the app and the tools to it.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint docs notebooks env clean
.NOTPARALLEL:  # one pip at a time in one environment

demo: $(VENV)/.core
	$(RUN)/gps-seg demo --out runs/demo

# the browser tests need Chromium: installed where that is allowed (Debian, root), else they say in one line that they skip
test: $(VENV)/.ready
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update \
	  && apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || echo "no Chromium: browser tests will be skipped"
	$(RUN)/python -m pytest -n logical --dist loadfile

lint: $(VENV)/.ready
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

# warnings are errors; needs no network
docs: $(VENV)/.ready
	@$(RUN)/python -c "import sphinx, furo, myst_parser" 2>/dev/null \
	  || $(RUN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(RUN)/python docs/write_settings.py
	$(RUN)/python -m sphinx -q -E -W --keep-going docs build/docs
	@echo "build/docs/index.html"

notebooks: $(VENV)/.ready
	$(RUN)/python -m pytest --nbmake -p no:hypothesispytest notebooks

env: $(VENV)/.ready

# pip would compile what it installs on one core
$(VENV)/.ready: extras := [app,dev]
$(VENV)/.core $(VENV)/.ready: pyproject.toml constraints.txt
	@echo "installing .$(extras) into $(VENV) (a few minutes, once)"
	@test -x $(RUN)/pip || $(PYTHON) -m venv $(VENV)
	$(RUN)/pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e ".$(extras)"
	@$(RUN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true  # a package's own file for another Python may not compile
	@touch $(VENV)/.core $@

clean:
	rm -rf $(VENV) runs
