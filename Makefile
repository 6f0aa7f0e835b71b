# Everything is reached from here; `make help` lists it. Needs Python 3.11 or newer and the package index.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

# ONNX Runtime reports its use to its maker when it is imported; the server's workers switch that off themselves.
export ORT_DISABLE_TELEMETRY := 1

RESULTS := benchmarks/results/$(shell date +%F)

.DEFAULT_GOAL := help
.PHONY: help run test check format browser api model bench bench-quick bench-engine clean

help: ## list what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: .venv/run ## set up, start the server on 127.0.0.1:8080, check it with a sample
	@$(BIN)/stream-server serve --self-check

test: .venv/dev browser ## set up and run the whole test suite, browser tests included: about 11 minutes on two cores
	@echo "this takes about 11 minutes on two cores"
	@$(BIN)/python -m pytest

check: .venv/dev ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/dev ## put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

browser: .venv/dev ## find a Chromium for the tests, or get one
	@$(BIN)/python tests/browser.py

api: .venv/run ## write docs/api.md from the docstrings
	@$(BIN)/python docs/make_api.py

model: .venv/dev ## train the spam model again, from its corpus
	@$(BIN)/python -m inference.training.spam

bench: .venv/bench ## load benchmarks beside other servers, under 20 minutes: tables, benchmarks/results/, docs/benchmarks.png
	@$(BIN)/stream-server bench all --output $(RESULTS).json --html $(RESULTS).html
	@$(BIN)/python -m benchmarks.report.page $(RESULTS).json --png docs/benchmarks.png

bench-quick: .venv/bench ## the same, rougher, beside the quick ones of the other servers, under 3 minutes
	@$(BIN)/stream-server bench all --quick

bench-engine: .venv/dev ## the engine's figures with targets and verdicts, under 5 minutes
	@$(BIN)/python -m benchmarks

clean: ## remove what these commands made
	rm -rf .venv .venv-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/web_client/node_modules

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "cannot make .venv; on Debian: apt-get install python3-venv"; exit 1; }

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv ..."
	@$(PIP) --editable .
	@echo "installed; in another terminal enter it with: . .venv/bin/activate"
	@touch $@

.venv/bench: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv, with what the benchmarks need ..."
	@$(PIP) --editable '.[bench,mlperf,training]'
	@touch $@ .venv/run

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv, with what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ .venv/bench .venv/run
