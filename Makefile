# `make` lists the targets. Each one makes the virtual environment .venv and installs into it first, once.
# Another Python: make test PYTHON=python3.14

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

.PHONY: help course lab slides site notebooks-clean test bench gpu experiments speedrun outputs publish install clean

help:  ## list the targets
	@$(PYTHON) -c "import re; [print(f'make {name:16} {text}') for name, text in re.findall(r'(?m)^([\w-]+):[^#\n]*## (.*)', open('Makefile').read())]"

course: $(STAMP)  ## run all notebooks at the run size of this machine: copies and HTML pages go to build/
	$(VENV_PYTHON) -m scripts.run_notebooks

lab: $(STAMP)  ## open the first notebook in JupyterLab
	$(VENV_PYTHON) -m jupyterlab --notebook-dir=. notebooks/00_start_here.ipynb

slides: $(STAMP)  ## make slides from the stored outputs, for use without the internet: one HTML file per notebook in build/slides/
	$(VENV_PYTHON) -m scripts.slides

site: $(STAMP)  ## make a website of the course from the stored outputs, with search, slides and views: build/site/index.html
	$(VENV_PYTHON) -m scripts.website

notebooks-clean: $(STAMP)  ## copy the notebooks without outputs to build/notebooks-clean/, to hand out
	$(VENV_PYTHON) -m scripts.clean_notebooks

# Several tests at a time, each with one thread: many small tensors gain nothing from more.
test: export COURSE_SIZE := smoke
test: export OMP_NUM_THREADS := 1
test: $(STAMP)  ## run all tests, and all notebooks at smoke size
	$(VENV_PYTHON) -m pytest tests notebooks --nbmake -n logical --maxprocesses 4 --dist worksteal $(ARGS)

bench: $(STAMP)  ## time Model 5 against Hugging Face's GPT-2 on this machine (ARGS=--help lists the options)
	$(VENV_PYTHON) -m benchmarks.bench $(ARGS)

# In .venv if it is there, and otherwise in any Python that has PyTorch: it installs nothing by itself.
gpu:  ## measure all that needs an NVIDIA GPU, in 12 minutes (ARGS="--device cpu --quick" rehearses it on any machine)
	$(if $(wildcard $(STAMP)),$(VENV_PYTHON),$(PYTHON)) -m scripts.gpu $(ARGS)

experiments: $(STAMP)  ## tune, train and record what notebook 09 compares, in a night (ARGS=--help lists the options)
	$(VENV_PYTHON) -m helpers.course.experiments $(ARGS)
	$(if $(filter -h --help --list --arms --groups,$(ARGS)),,$(VENV_PYTHON) -m data.recipes.measure_positions --models)

speedrun: $(STAMP)  ## train what the laptop speedrun has not recorded yet, and print its table (ARGS=--help lists the options)
	$(VENV_PYTHON) -m helpers.course.speedrun $(ARGS)

outputs: $(STAMP)  ## run all notebooks and write the outputs into them, for a commit
	$(VENV_PYTHON) -m scripts.run_notebooks --in-place

publish: $(STAMP)  ## write an address into badges and setup cells: make publish REPO=https://github.com/me/my-copy
	$(VENV_PYTHON) -m scripts.publish $(REPO)

install: $(STAMP)  ## only make .venv and install into it

clean:  ## remove build/
	$(PYTHON) -c "import shutil; shutil.rmtree('build', ignore_errors=True)"

$(STAMP): requirements.txt constraints.txt
	$(PYTHON) -c "import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit('This is Python ' + '.'.join(map(str, sys.version_info[:2])) + '. The course needs Python 3.11, 3.12, 3.13 or 3.14. Install one of them and name it, for example: make PYTHON=python3.14 ...')"
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install -r requirements.txt -c constraints.txt
	$(VENV_PYTHON) -c "open('$(STAMP)', 'w').close()"
