# Two commands do all the set-up: `make walkthrough` and `make test`.
PYTHON ?= python3
VENV   := .venv
OTHERS := .venv-others
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: walkthrough test test-all test-fast lint format bench bench-gpu gallery docs notebook mutants mutants-fast mutate others clean

walkthrough: $(VENV)/.installed        ## the seed's training step, by hand, on one device and on two
	$(BIN)/shardproof walkthrough

test: $(VENV)/.installed-test lint     ## linters, type checker, every test; of many alike cases a sample
	$(BIN)/python -m pytest -n auto --sample

test-all: $(VENV)/.installed-test lint ## the same, and every case
	$(BIN)/python -m pytest -n auto

test-fast: $(VENV)/.installed-test     ## what an edit should not break
	$(BIN)/python -m pytest -n auto -m "not slow and not processes"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test         ## every benchmark: a table, benchmarks/results.json, docs/performance-figures.md, docs/performance.svg
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.page
	$(PIP) --editable '.[plot]'
	$(BIN)/python -m benchmarks.plot

bench-gpu: $(VENV)/.installed-test     ## what only a CUDA device can tell; exit code 2 where there is none
	$(BIN)/python -m benchmarks.gpu

gallery: $(VENV)/.installed-test       ## docs/gallery: pages to look at, with pictures; needs chromium
	$(BIN)/python -m benchmarks.gallery

docs: $(VENV)/.installed-test          ## the pages as a site: build/docs/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

notebook: $(VENV)/.installed-test      ## examples/by_hand.ipynb, run anew from examples/by_hand.py
	$(BIN)/python -m benchmarks.notebook

mutants: $(VENV)/.installed-test       ## planted bugs and correct configurations: the kill matrix
	$(BIN)/python -m benchmarks.mutants --docs

mutants-fast: $(VENV)/.installed-test  ## every planted bug and a fixed spread of the configurations, in ten minutes
	$(BIN)/python -m benchmarks.mutants --fast

mutate: $(VENV)/.installed-mutate      ## small changes of the source: do the tests notice? FILES="exact/algebra/bound.py" SAMPLE=30
	$(BIN)/python -m pytest -n0 -q tests/mutation/check_mutants.py
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation $(FILES) $(addprefix --sample ,$(SAMPLE))

others: $(OTHERS)/.installed           ## loops and layers of other libraries as they are; docs/others.md is written anew
	OMP_NUM_THREADS=1 $(OTHERS)/bin/python -m pytest -n auto tests/others -o filterwarnings=default --docs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shardproof needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: a range would let the package index choose a build with a GPU runtime.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test,lint]'
	touch $@

$(VENV)/.installed-mutate: $(VENV)/.installed-test
	$(PIP) -e '.[mutate]'
	touch $@

# An environment of its own: what these libraries bring along must not decide what the other tests run with.
$(OTHERS)/.installed: pyproject.toml constraints.txt constraints-others.txt
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-others.txt \
		-e '.[test]' accelerate lightning peft megatron-core fairscale
	touch $@

clean:
	rm -rf $(VENV) $(OTHERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
