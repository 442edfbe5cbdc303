# `make` lists the verbs. Everything runs in .venv, which the first verb that needs it sets up.
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
READY := .venv/.ready
BENCH := .venv/.bench

.PHONY: help setup results test test-services check flow ui bench bench-gpu clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## install into .venv (2 minutes, about 5 GB with CUDA libraries)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Contrail needs Python 3.11 to 3.13: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

results: $(READY) ## run the study in params.yaml and say where to look
	contrail check
	dvc repro
	contrail where

test: $(READY) ## run the tests: no root, no server, no network
	pytest -m "not service" --numprocesses 2 --dist loadfile

test-services: $(READY) ## run the tests that need a server, a browser or a second environment; a skip fails
	pytest -m service --fail-on-skip --numprocesses 2 --dist loadfile

check: $(READY) ## linters and types
	ruff check .
	ruff format --check .
	mypy

flow: $(READY) ## run the study as a Prefect flow, stages side by side
	contrail run

ui: $(READY) ## serve the MLflow and Prefect pages on this machine
	contrail ui

bench: $(BENCH) ## measure speed and memory against peers and limits on the CPU, into benchmarks/ (12 minutes)
	python -m benchmarks

bench-gpu: $(BENCH) ## the same on a GPU (8 minutes)
	python -m benchmarks.gpu

$(BENCH): $(READY)
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean: ## forget scratch state; data, cache and tracking stay
	test ! -d .scratch || find .scratch -mindepth 1 -maxdepth 1 ! -name tracking ! -name forget.json -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
