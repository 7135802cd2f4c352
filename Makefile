# Every target makes its own virtual environment in .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint bench same

help:
	@echo "make demo   sample the shipped digits model and evaluate the samples"
	@echo "make test   run the tests"
	@echo "make lint   check style and types"
	@echo "make bench  run the benchmarks (some minutes)"
	@echo "make same OLD=COMMIT  compare what COMMIT and HEAD make (some minutes)"

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[demo,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/repa sample --model digits --fast --out samples/digits.npz --grid samples/digits.png
	$(BIN)/repa fid samples/digits.npz --baselines

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(INSTALLED)
	for run in "features.py" "features.py --compiled" "frechet.py" "precision_recall.py" "streaming.py"; do \
		echo "== $$run"; $(BIN)/python benchmarks/$$run || exit 1; done

same: $(INSTALLED)
	$(BIN)/python benchmarks/same_results.py $(OLD)
