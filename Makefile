# Every target does its own set-up: a virtual environment in .venv, with the pinned versions.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.stamp
INDEX := _build/html/index.html
CHAPTER ?=
FUZZ ?=

.DEFAULT_GOAL := help
.PHONY: help book pdf lab serve test fuzz run export check style structure train bench replicate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "This book needs Python 3.11 or newer; '$(PYTHON)' is missing or older." >&2; \
		echo "Name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Setting up .venv (once, a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
		-c constraints.txt -e '.[fast,mpi,torch,book,test]'
	@touch $@

book: $(READY) ## build the HTML book and print where it is
	@rm -rf _build/html
	@$(BIN)/jupyter-book build . --all -W -n --keep-going
	@echo "The book: $(INDEX)"
	@echo "Open it:  $$($(BIN)/python -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).resolve().as_uri())' $(INDEX))"

lab: $(READY) ## open the chapters in JupyterLab: copies to change, in notebooks/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab]'
	@test -f _build/notebooks/index.ipynb || $(MAKE) --no-print-directory book
	@$(BIN)/python book/tools/lab.py

serve: $(READY) ## serve the pages, and show each change of the book at once
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve]'
	@$(BIN)/python book/tools/serve.py

pdf: book ## print the whole book to _build/book.pdf, with Chromium (some minutes)
	@$(BIN)/python book/tools/pdf.py

test: $(READY) ## run all tests: every chapter, the package, the pages (CNN_TIER=full: train in full)
	@$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

fuzz: $(READY) ## read 100 000 damaged files of each kind, kill 50 trainings (FUZZ='--help' for more)
	@$(BIN)/python tests/fuzz.py $(FUZZ)

run: $(READY) ## execute chapters and store their outputs (CHAPTER=10-... for one)
	@$(BIN)/python book/tools/run.py $(CHAPTER)

export: $(READY) ## write the package cnn/ from the chapters
	@$(BIN)/python book/tools/export.py

check: $(READY) ## quick checks: export, ledger, spelling, notebooks, pages, links, style (under a minute)
	@$(MAKE) --no-print-directory -j 2 style structure

style: # what reads text alone
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { \
		echo "ruff format: see '$(BIN)/ruff format --diff .'" >&2; exit 1; }
	@$(BIN)/python book/tools/export.py --check
	@$(BIN)/python book/tools/ledger.py
	@$(BIN)/python book/tools/prose.py
	@$(BIN)/mypy --no-error-summary

structure: # tests that execute no chapter
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
		-m check -o addopts=--strict-markers $$(grep -l 'mark\.check' tests/test_*.py)

train: $(READY) ## train the network of Table 1 (MNIST where found, else the embedded digits)
	@$(BIN)/python -m cnn train

bench: $(READY) ## time training steps beside PyTorch's, for the chapter on the whole step (a quarter of an hour)
	@$(BIN)/python tests/bench.py

bench-gpu: $(READY) ## time training steps on a graphics processor of Nvidia's (minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu]'
	@$(BIN)/python tests/bench_gpu.py

replicate: $(READY) ## train with every recipe and seed, for the chapters on MNIST and PyTorch (hours)
	@$(BIN)/python book/tools/replicate.py

clean: ## remove builds and caches (not .venv, not data)
	rm -rf _build build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-type d -print0 | xargs -0 rm -rf
