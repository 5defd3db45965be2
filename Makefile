# `make` lists the targets. Each one makes the virtual environment .venv and installs into it first, once.
# Another Python: make test PYTHON=python3.13

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif
# Quoted, so that Windows' own shell accepts the slashes.
VENV_PYTHON := "$(BIN)/python"
STAMP := .venv/installed

# The kernel named python3 is the one in .venv, whatever else this user has installed.
export JUPYTER_PATH := $(CURDIR)/.venv/share/jupyter

ARGS ?=

.PHONY: help course lab slides notebooks-clean test bench experiments outputs publish install clean

help:
	@echo make course - run all notebooks at the size of this machine: copies and HTML in build/
	@echo make lab - open JupyterLab on the notebooks
	@echo make slides - make slides from the stored outputs, usable without the internet: one HTML file per notebook in build/slides/
	@echo make notebooks-clean - copy the notebooks without outputs to build/notebooks-clean/, to hand out
	@echo make test - run all tests, and all notebooks in smoke size
	@echo make bench - time Model 5 against the GPT-2 of Hugging Face on this machine: ARGS=--help shows the choices
	@echo make experiments - train all variants of the recipe for notebook 09 and record them, in up to an hour: ARGS=--help shows the choices
	@echo make outputs - run all notebooks and write the outputs into them, for a commit
	@echo make publish REPO=https://github.com/me/my-copy - write that address into badges and setup cells
	@echo make install - only make .venv and install
	@echo make clean - remove build/

course: $(STAMP)
	$(VENV_PYTHON) scripts/run_notebooks.py

lab: $(STAMP)
	$(VENV_PYTHON) -m jupyterlab --notebook-dir=notebooks

slides: $(STAMP)
	$(VENV_PYTHON) scripts/slides.py

notebooks-clean: $(STAMP)
	$(VENV_PYTHON) scripts/clean_notebooks.py

# Several tests at a time, each with one thread: many small tensors gain nothing from more.
test: export COURSE_SIZE := smoke
test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(VENV_PYTHON) -m pytest tests notebooks --nbmake -n logical --maxprocesses 4 --dist worksteal $(ARGS)

bench: $(STAMP)
	$(VENV_PYTHON) benchmarks/bench.py $(ARGS)

experiments: $(STAMP)
	$(VENV_PYTHON) scripts/experiments.py $(ARGS)

outputs: $(STAMP)
	$(VENV_PYTHON) scripts/run_notebooks.py --in-place

publish: $(STAMP)
	$(VENV_PYTHON) scripts/publish.py $(REPO)

install: $(STAMP)

$(STAMP): requirements.txt constraints.txt
	$(PYTHON) -c "import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit('Python 3.11 to 3.13 is needed: make PYTHON=python3.13 ...')"
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install -r requirements.txt -c constraints.txt
	$(VENV_PYTHON) -c "open('$(STAMP)', 'w').close()"

clean:
	$(PYTHON) -c "import shutil; shutil.rmtree('build', ignore_errors=True)"
