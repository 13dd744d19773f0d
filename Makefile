# Targets of this repository. `make` alone lists them.
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3
# A folder of wheels to prefer (for a CPU build of torch, say); the variable is pip's own.
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

# Many containers set this. Without compiled files, every process of a test compiles all that it imports: 5 s of CPU for torch alone.
unexport PYTHONDONTWRITEBYTECODE

# Tests run side by side; those that start a cluster or a server are one group, one after the other.
BESIDE := --numprocesses logical --maxprocesses 4 --dist loadgroup

.PHONY: help demo test test-fast test-hosts test-infra hosts lint types contract chaos fuzz bench gpu scale lock docs docs-build screenshots clean
help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Gantry needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing the locked environment into $(VENV) (about a minute, more with the CUDA build of torch)"
	@VIRTUAL_ENV="$$PWD/$(VENV)" $(BIN)/uv pip install --quiet $(FIND_LINKS) -r requirements.lock
	@VIRTUAL_ENV="$$PWD/$(VENV)" $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

demo: $(VENV)/.ready  ## install, fetch data and weights, and run the whole pipeline on Fashion-MNIST
	@$(BIN)/gantry demo

test: $(VENV)/.ready  ## run all tests but those of make test-hosts
	@$(BIN)/python -m pytest $(BESIDE) -m "not hosts"

test-fast: $(VENV)/.ready  ## run the tests that need neither Ray nor Prefect nor the Inception weights
	@$(BIN)/python -m pytest $(BESIDE) -m "not ray and not prefect and not end_to_end and not weights and not hosts"

test-hosts: $(VENV)/.ready  ## run the tests on several hosts, made of namespaces on this machine (needs root and Linux; else they skip)
	@$(BIN)/python -m pytest tests/infra $(BESIDE) -m "hosts and not slow"

test-infra: $(VENV)/.ready  ## run the long tests on hosts, and break training on them (an hour or more); writes var/infra.json. CASES="kill*" and TIMES=1 select cases and repetitions
	@$(BIN)/python -m pytest tests/infra -m "hosts and slow"
	@$(BIN)/python -m tests.infra $(if $(CASES),--cases "$(CASES)") $(if $(TIMES),--times $(TIMES))

hosts: $(VENV)/.ready  ## start three hosts with Ray, PostgreSQL, S3, MLflow and Prefect on this machine, until Ctrl-C (needs root and Linux)
	@$(BIN)/python -m infra.hosts

lint: $(VENV)/.ready  ## check the style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.ready  ## check the static types
	@$(BIN)/mypy

contract: $(VENV)/.ready  ## check which package may import which
	@$(BIN)/lint-imports

chaos: $(VENV)/.ready  ## inject faults; prints a table. CASES="kill-*" TIMES=5: which cases, how often; RESUME=1: go on after an earlier call
	@$(BIN)/python -m tests.chaos $(if $(CASES),--cases "$(CASES)") $(if $(TIMES),--times $(TIMES)) $(if $(RESUME),--resume) $(if $(SMALL),--small --lanes 2)

fuzz: $(VENV)/.ready  ## read broken and hostile pictures, archives, tables and Parquet. INPUTS=100000: number of each; SEED=1: other inputs
	@$(BIN)/python -m tests.fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.ready  ## compare speeds with plain PyTorch code; prints a table and writes var/bench.json
	@$(BIN)/python -m tests.bench

gpu: $(VENV)/.ready  ## measure a machine with a card: correctness, speed, training runs (about 2 hours; go on by calling again)
	@$(BIN)/python -m tests.gpu pack
	@$(BIN)/python -m tests.gpu all

scale: $(VENV)/.ready  ## print what many workers would cost, and the memory and time to list and plan 1,000,000 pictures
	@$(BIN)/python -m tests.scale
	@$(BIN)/python -m tests.scale.ingest

docs: docs-build  ## build the documentation strictly and serve it on http://127.0.0.1:8000
	@echo "Serving $$PWD/var/site on http://127.0.0.1:8000 until Ctrl-C"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory var/site 8000

docs-build: $(VENV)/.ready  ## build the documentation into var/site; a warning or a broken link fails
	@DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --clean

screenshots: $(VENV)/.ready  ## take the tutorial's screenshots of the terminal, MLflow and Prefect, from a real run (needs Chromium)
	@$(BIN)/python docs/generate/screenshots.py

# The CUDA packages are left out on purpose: the build of torch that a machine gets brings its own.
lock: $(VENV)/.ready  ## resolve the requirements again
	@$(BIN)/uv pip compile pyproject.toml --extra cluster --extra onnx --extra dev --universal --python-version 3.11 $(FIND_LINKS) \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock
	@sed -i.old -E -e 's/^(torch==[0-9.]+)\+cpu/\1/' -e '/^(nvidia-|cuda-|triton)/d' requirements.lock && rm requirements.lock.old

clean:          ## remove what Gantry made: results, and var with MLflow's default store and registry (raw data stays)
	@rm -rf var outputs data/prepared
