# Herald. `make` alone says what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# make run KAFKA=apache, make test-kafka: Apache Kafka instead of Tansu.
KAFKA ?=
export KAFKA
# make fuzz: how long each target runs.
SECONDS := 60

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
NODE_CLIENTS := tests/clients/node_modules/.package-lock.json
CYTHON_SOURCES := $(wildcard gateway/_fast/*.pyx gateway/_fast/*.pxd)
AS_ROOT := $(filter 0,$(shell id -u))

.PHONY: help install run test test-kafka conformance faults faults-kafka profile fuzz lint format build clean chromium bench-tools redis-tools clock-tools node-clients kafka-tools

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## Start everything, print READY, run until Ctrl-C (KAFKA=apache: on Apache Kafka)
	@exec $(BIN)/python -m devstack run

test: install chromium bench-tools redis-tools node-clients ## Run every test but those of test-kafka
	@KAFKA= $(BIN)/python -m pytest -m "not kafka" -n 4 --dist loadfile --no-loadscope-reorder

test-kafka: install kafka-tools ## Run the tests on real servers with Apache Kafka (Java 17, Maven, kcat)
	@KAFKA=apache $(BIN)/python -m pytest -m "(stack or kafka) and not browser" --ignore tests/hostile

conformance: install ## Run the Autobahn cases of RFC 6455 against both carriers
	@$(BIN)/python -m tests.conformance

faults: install clock-tools ## Break every part while notifications flow; the ledger must come out even (some 25 minutes)
	@KAFKA= $(BIN)/python -m tests.faults

faults-kafka: install kafka-tools ## The same with the faults of Kafka itself, on Apache Kafka
	@KAFKA=apache $(BIN)/python -m tests.faults

profile: install ## Flame graphs of a loaded gateway process and of a worker, into build/profile (as root)
	@$(BIN)/python -m bench profile

fuzz: install ## Fuzz the parsers under sanitisers, SECONDS=60 for each (gcc)
	@$(BIN)/python -m fuzz --seconds $(SECONDS)

lint: install ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/cython-lint gateway/_fast

format: install ## Rewrite the Python files in the house's format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

build: install ## Build the wheel and the sdist into dist/
	@$(BIN)/python -m build --outdir dist .

clean: ## Wipe .herald: the data, logs and secrets of make run
	@if [ -e .herald/lock ] && ! flock --nonblock .herald/lock true; then \
		echo "make run is running (pid $$(cat .herald/lock)): stop it first"; exit 1; fi
	@rm -rf .herald
	@echo "wiped .herald"

install: $(BUILT) ## Install Herald and what its tests need into .venv

# Lines of pip that tell what it is doing; its errors come through on stderr.
PIP_STEPS := grep --line-buffered -E '^(Collecting|Downloading .*MB|Building wheel|Building editable|Installing collected|Successfully)' | cut -c 1-110

$(INSTALLED): pyproject.toml setup.py
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is missing: apt-get install python3 python3-venv python3-dev gcc"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Herald needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	@command -v cc > /dev/null || { echo "a C compiler is missing: apt-get install gcc python3-dev"; exit 1; }
	@if [ ! -x $(BIN)/python ]; then echo "== making $(VENV)"; $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python3 -m venv failed: apt-get install python3-venv"; exit 1; }; fi
	@echo "== installing Herald and its development packages; the first time takes a minute or two"
	@$(PIP) install --editable '.[dev,bench]' | { $(PIP_STEPS) || true; }
	@touch $@

# An editable install does not rebuild extensions by itself: here they are, when a source of theirs is newer.
$(BUILT): $(INSTALLED) $(CYTHON_SOURCES)
	@echo "== building the extensions of gateway/_fast"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# bench measures TLS with them.
bench-tools:
	@if { [ ! -e /usr/include/openssl/ssl.h ] || ! command -v haproxy > /dev/null; } \
		&& [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
		echo "== installing libssl-dev and haproxy for the test of bench"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends libssl-dev haproxy > /dev/null; } \
			|| echo "== apt-get could not install them: the test of bench will fail"; fi

# Redis through TLS is tested with the binary in it: the embedded Valkey is built without TLS.
redis-tools:
	@if ! command -v redis-check-rdb > /dev/null && [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
		echo "== installing redis-tools for the tests of Redis through TLS"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends redis-tools > /dev/null; } \
			|| echo "== apt-get could not install redis-tools: the tests of Redis through TLS will fail"; fi

# A process whose clock steps has it before its C library.
clock-tools:
	@if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 > /dev/null 2>&1 && [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
		echo "== installing libfaketime for the case of clocks that step"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends libfaketime > /dev/null; } \
			|| echo "== apt-get could not install libfaketime: the case of clocks that step will fail"; fi

# The browser test needs Debian's Chromium; without it that one test fails and says how to get it.
chromium:
	@if ! command -v chromium > /dev/null && [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
		echo "== installing chromium for the browser test"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends chromium > /dev/null; } \
			|| echo "== apt-get could not install chromium: the browser test will fail"; fi

# npm's ws, as tests/clients/package-lock.json pins it; without it those tests fail and say how to get it.
node-clients: $(NODE_CLIENTS)

$(NODE_CLIENTS): tests/clients/package-lock.json
	@if ! command -v npm > /dev/null && [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
		echo "== installing node and npm for the tests of foreign clients"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends nodejs npm > /dev/null; } \
			|| echo "== apt-get could not install node: the tests of npm's ws will fail"; fi
	@if command -v npm > /dev/null; then \
		echo "== installing npm's ws for the tests of foreign clients"; \
		timeout 120 npm ci --prefix tests/clients --no-audit --no-fund --ignore-scripts --loglevel=error > /dev/null && touch $@; \
	else echo "npm is missing: apt-get install nodejs npm; the tests of npm's ws will fail"; fi

kafka-tools:
	@missing=""; for pair in java:openjdk-17-jre-headless mvn:maven kcat:kcat; do \
		command -v "$${pair%%:*}" > /dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
		if [ -n "$(AS_ROOT)" ] && command -v apt-get > /dev/null; then \
			echo "== installing$$missing"; apt-get update -qq; \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing > /dev/null; \
		else echo "missing: apt-get install --no-install-recommends$$missing"; exit 1; fi; fi
