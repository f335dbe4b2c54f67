# Everything a person does with this repository. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     ?= uv
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-frameworks soak check format generate bench lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# A stamp per lock file: installing again happens only when the locked versions change.
$(VENV)/runtime.stamp: requirements/runtime.txt pyproject.toml
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing locked dependencies (requirements/runtime.txt)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/runtime.stamp
	@echo "installing locked development tools (requirements/dev.txt)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/runtime.stamp  ## train a small GPT on emulated DCUs in a local cluster, without Docker (about a minute)
	@$(BIN)/supernode demo

test: check  ## all checks, then every test this machine can run
	@$(BIN)/pytest $(PYTEST_ARGS)

.venv-frameworks/stamp: requirements/frameworks.txt
	@test -x .venv-frameworks/bin/python || $(PYTHON) -m venv .venv-frameworks
	@echo "installing the training frameworks (requirements/frameworks.txt, several gigabytes)"
	@.venv-frameworks/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/frameworks.txt
	@touch $@

test-frameworks: $(VENV)/dev.stamp .venv-frameworks/stamp  ## jobs really started by all training frameworks (gigabytes)
	@SUPERNODE_FRAMEWORKS_PYTHON=$(CURDIR)/.venv-frameworks/bin/python $(BIN)/pytest -m frameworks $(PYTEST_ARGS)

soak: $(VENV)/dev.stamp  ## 1,000 seeded schedules of trouble against the operator's promises (SEED=n: that one again)
	@$(BIN)/python -m tests.soak $(if $(SEED),--seed $(SEED))

check: $(VENV)/dev.stamp  ## format, lint, types, layers, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m supernode.generate --check

format: $(VENV)/dev.stamp  ## put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: $(VENV)/dev.stamp  ## write the generated files again (crds/, the chart's copy, reference pages)
	@$(BIN)/python -m supernode.generate

bench: $(VENV)/dev.stamp  ## benchmarks: one JSON object a line, also in build/bench/ (ONLY=name for one)
	@$(BIN)/python -m tests.bench $(ONLY)

lock:  ## resolve the newest allowed dependency versions and lock them (needs uv)
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --generate-hashes --upgrade --extra operator --extra local pyproject.toml -o requirements/runtime.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --generate-hashes --upgrade requirements/frameworks.in -o requirements/frameworks.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --generate-hashes --upgrade --extra operator --extra local --extra onnx pyproject.toml requirements/dev.in -c requirements/runtime.txt -o requirements/dev.txt

clean:  ## remove what was built (the environment too)
	rm -rf $(VENV) .venv-frameworks build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
