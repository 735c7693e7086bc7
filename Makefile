# The environment is made once, and again when what it is made from changes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
ENVIRONMENT := .venv/made
BENCH := .venv/made-bench

.PHONY: demo test lint types docs bench clean

demo: $(ENVIRONMENT)  ## the main job: train, stop early, resume, replay
	$(BIN)/python examples/01_digits.py

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest -n 2

lint: $(ENVIRONMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(ENVIRONMENT)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(ENVIRONMENT)  ## build/docs/index.html
	$(BIN)/sphinx-build -q -W --keep-going -j 2 docs build/docs

bench: $(BENCH)  ## writes benchmarks/results.md
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/callbacks.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/page.py

$(ENVIRONMENT): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[dev]'
	@touch $@

$(BENCH): $(ENVIRONMENT)
	$(PIP) -e '.[dev,bench]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find fncb tests examples benchmarks -name __pycache__ -type d -exec rm -rf {} +
