# Everything a person types stands here; each target sets up what it needs first (scripts/setup).
#   make demo ARGS="--seed 2"      pass options on
#   make PYTHON=/path/to/python3.12 demo
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test lint format integration e2e ci lock setup setup-dev clean

ARGS ?=
export PYTHON UV
LOCK = $(or $(UV),uv) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --quiet

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## /  make \1|/' | while IFS='|' read -r left right; do printf '%-20s %s\n' "$$left" "$$right"; done

demo: setup ## set everything up and run the town (ARGS="--seed 2" passes options on)
	@.venv/bin/underway demo $(ARGS)

test: setup-dev ## set everything up and run the tests that need no service (ARGS="-k leak" passes options on)
	@.venv/bin/python -m pytest -n auto --dist worksteal --durations=5 -m "not integration and not e2e" $(ARGS)

integration: setup-dev ## run the tests on real PostgreSQL, TimescaleDB and Mosquitto
	@.venv/bin/python -m pytest -m integration $(ARGS)

e2e: setup-dev ## run the whole product in a headless browser
	@.venv/bin/python -m pytest -m e2e $(ARGS)

lint: setup-dev ## ruff, mypy --strict and the import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup-dev ## let ruff put the code in order
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

ci: ## what the continuous integration runs (root on Debian: installs packages)
	@.ci/run

lock: ## resolve the dependencies anew within pyproject.toml (ARGS="--upgrade" takes newer versions; needs uv)
	@$(LOCK) --group build --output-file requirements.lock $(ARGS)
	@$(LOCK) --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock $(ARGS)

setup: # what demo needs
	@scripts/setup run

setup-dev: # what test and lint need
	@scripts/setup dev

clean: ## remove .venv, caches and what a build leaves; the demo's data is kept in .underway
	@rm -rf .venv build dist underway.egg-info .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
