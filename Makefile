# From nothing but Python 3.11+ and a network:
#
#   make demo    warp the sample and look at it: demo/index.html
#   make test    run the tests
#   make docs    build the documentation's site: build/site/index.html
#   make check   lint, types, import contracts and tests, as CONTRIBUTING.md asks
#
# Everything is installed into .venv. Another Python: make demo PYTHON=/path/to/python

VENV ?= .venv
BIN := $(VENV)/bin
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
# ensurepip: Debian's python3 alone cannot make an environment.
SUITABLE := import sys, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in $(CANDIDATES); do \
	"$$name" -c '$(SUITABLE)' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
# What the installed package is built from; the rest of the checkout is used in place.
SOURCES := pyproject.toml setup.py flowwarp/__init__.py $(wildcard cuda/*.h cuda/*.cpp)

.DELETE_ON_ERROR:
.PHONY: help demo test docs check clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed-test
	$(BIN)/python tools/demo.py

test: $(VENV)/installed-test
	PATH="$(abspath $(BIN)):$$PATH" poe test

check: $(VENV)/installed-dev
	PATH="$(abspath $(BIN)):$$PATH" poe check

docs: $(VENV)/installed-docs
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict

clean:
	rm -rf $(VENV) build dist demo flowwarp.egg-info flowwarp/ops/*.so

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "flowwarp needs Python 3.11 or newer with venv and ensurepip; none of these is:" \
			"$(CANDIDATES)." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3-venv) or name it:" \
			"make PYTHON=/path/to/python" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# installed-test: the package and what its tests need; installed-dev: the linters too; installed-docs:
# what builds the site.
$(VENV)/installed-%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
