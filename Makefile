# `make` alone lists the targets. Everything lands in .venv; `make clean` takes it away again.

PYTHON ?= python3
REGISTRY ?= embedded
WORKERS ?= 3
ARGS ?=

VENV := .venv
EXTRAS := dev
# The oldest libraries that pyproject.toml allows; what lints needs newer ones.
ifdef LOWEST
VENV := .venv-lowest
EXTRAS := test,shell
endif
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHELL := /bin/sh

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test lint bench-locks chaos-locks bench bench-calls bench-converge bench-fan-out bench-notices bench-search clean

help: ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo "Variables: PYTHON=python3.12 (setup)  REGISTRY=zookeeper (demo)  WORKERS=3, ARGS='-k name', LOWEST=1 (test)"

setup: $(READY) ## make .venv with the package and its tools (the other targets do it by themselves)

venv: setup

# Debian and Ubuntu ship Python without its venv module: say what is missing before pip does.
$(READY): pyproject.toml flock/__init__.py
	@command -v $(PYTHON) >/dev/null || { \
	  echo "missing: $(PYTHON). Type: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), 3.11 or later is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "missing: Python's venv module. Type: sudo apt-get install python3-venv" >&2; exit 1; }
	@command -v git >/dev/null || { \
	  echo "missing: git. Type: sudo apt-get install git" >&2; exit 1; }
	@echo "setting up $(VENV)" >&2
	@mkdir -p $(VENV)/tmp  # what an interrupted setup leaves lies there, too
	@TMPDIR="$(CURDIR)/$(VENV)/tmp" $(PYTHON) -m venv $(VENV)
	@$(if $(LOWEST),$(BIN)/python scripts/lowest_versions.py,:) >$(VENV)/tmp/constraints.txt
	@TMPDIR="$(CURDIR)/$(VENV)/tmp" $(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --constraint $(VENV)/tmp/constraints.txt --editable '.[$(EXTRAS)]'
	@rm -rf $(VENV)/tmp flock_of_chefs.egg-info  # what is installed has its own copy in $(VENV)
	@touch $@

demo: $(READY) ## three processes: a node converges because another process asked it to
	@$(BIN)/python scripts/demo --registry $(REGISTRY)

# What is started here is stopped here, whatever happens, and the exit code is that of the tests.
# What they write goes with it, also when they are killed, but for pytest's own folders: a failure
# is looked into there. Some of it is for other users, who must get there.
test: $(READY) ## get and start a ZooKeeper, run all tests, stop it
	@home=$$(mktemp -d) && chmod 711 "$$home" || exit 1; \
	trap 'scripts/zookeeper stop --home "$$home" >/dev/null; rm -rf "$$home"' EXIT; \
	trap 'exit 130' INT; trap 'exit 143' TERM HUP; \
	scripts/network_tools; hosts=$$(scripts/zookeeper start --home "$$home") || exit 1; \
	PYTEST_DEBUG_TEMPROOT="$${TMPDIR:-/tmp}" TMPDIR="$$home" FLOCK_TEST_ZOOKEEPER="$$hosts" \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY) ## ruff, mypy --strict, and the one-way imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## the same beside Pyro5, RPyC and xoscar, and what a node costs
	@$(BIN)/pip install --quiet --editable '.[bench]'
	@$(BIN)/python scripts/bench.py $(ARGS)

bench-calls: $(READY) ## our calls beside a raw pyzmq ping-pong, as ratios
	@$(BIN)/python scripts/bench_calls.py $(ARGS)

bench-converge: $(READY) ## a converge of files beside Puppet, pyinfra and Ansible, and its growth
	@$(BIN)/python scripts/bench_converge.py $(ARGS)

bench-fan-out: $(READY) ## one command for 50 real nodes on this machine, on either registry
	@$(BIN)/python scripts/bench_fan_out.py $(ARGS)

bench-locks: $(READY) ## our locks beside kazoo's on a local ZooKeeper, as ratios
	@$(BIN)/python scripts/bench_locks.py $(ARGS)

bench-notices: $(READY) ## how long a notice takes from one node's change to another's action
	@$(BIN)/python scripts/bench_notices.py $(ARGS)

bench-search: $(READY) ## names, find and search over 100, 1,000 and 5,000 nodes on ZooKeeper
	@$(BIN)/python scripts/bench_search.py $(ARGS)

SECONDS ?= 600
chaos-locks: $(READY) ## break processes, servers and links under locks for SECONDS=600
	@scripts/network_tools
	@PYTHONPATH=scripts $(BIN)/python -m tests.system.lock_chaos $(SECONDS)

clean: ## remove .venv and everything else that was made here
	@scripts/zookeeper stop >/dev/null 2>&1 || true
	rm -rf .venv .venv-lowest .zookeeper .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
