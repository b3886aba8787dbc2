# `make` or `make help` tells what there is. Everything is installed into this folder; ARGS are passed on,
# as in: make demo ARGS="--rows 100000"

SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE

# Relative on purpose: the folder's own path may have spaces.
PY := .venv/bin/python
DWH := .venv/bin/dwh
ARGS :=
WORKERS := 3
PYTEST := $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --durations 15 -m "not slow"
BASE_PYTHON := $(shell for p in $(PYTHON) python3.12 python3.11 python3.13 python3 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

##@ Start here
.PHONY: help setup demo test
help: ## what there is to make
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo

setup: ## install everything into .venv (the others do it by themselves)
	@[ -n "$(BASE_PYTHON)" ] || { echo "Python 3.11 or newer is needed; make PYTHON=/path/to/python3 setup" >&2; exit 1; }
	@"$(BASE_PYTHON)" bootstrap.py

demo: setup ## the whole path on generated data: shop, web logs, changes, marts, report
	@$(DWH) demo $(ARGS)

test: lint test-18 test-16 ## lint, then all tests on PostgreSQL 18 and those with data on 16

##@ Local stack
.PHONY: up down status deploy
up: setup ## start embedded PostgreSQL and the Prefect server with its UI
	@$(DWH) up $(ARGS)

down: ## stop them; data stay
	@[ ! -x $(DWH) ] || $(DWH) down $(ARGS)

status: setup ## last runs, freshness per table, what is quarantined
	@$(DWH) status $(ARGS)

deploy: setup ## every deployment and schedule onto PREFECT_API_URL, or onto the local stack
	@$(DWH) deploy $(ARGS)

##@ Development
.PHONY: lint test-unit test-18 test-16 test-weblog-kills format lock bench clean clean-data
.NOTPARALLEL:
lint: setup ## ruff, mypy, import-linter, sqlfluff
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports
	git ls-files -z '*.sql' ':!bench' ':!warehouse/migrations' | xargs -0 $(PY) -m sqlfluff lint --processes $(WORKERS)

test-unit: setup ## tests without a database, in seconds
	$(PYTEST) tests/unit $(ARGS)

test-18: setup ## all tests, on PostgreSQL 18; make test-18 ARGS="-k history"
	$(PYTEST) $(ARGS)

# What depends on the server's version: the engine's SQL, the schema, rights. The rest is the same on both.
ENGINE_TESTS := $(addprefix tests/integration/test_,history.py capture.py contracts.py deletes.py quarantine.py \
	migrations.py marts.py reconcile.py weblog_load.py roles.py embedded_postgres.py change_log.py undo.py dry_run.py \
	as_of.py)

test-16: setup ## the engine's tests and those with real data, on PostgreSQL 16
	DWH_TEST_PG_MAJOR=16 $(PYTEST) $(ENGINE_TESTS) tests/real $(ARGS)

test-weblog-kills: setup ## retention and re-classification of web logs, killed anywhere and run again
	$(PY) -m pytest -q -m slow tests/integration/test_weblog_reclassify.py tests/integration/test_weblog_retention.py $(ARGS)

format: setup ## let ruff and sqlfluff mend what they can
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	git ls-files -z '*.sql' ':!bench' ':!warehouse/migrations' | xargs -0 $(PY) -m sqlfluff fix --processes $(WORKERS)

lock: setup ## bring requirements.lock in line with pyproject.toml; newest versions: make lock ARGS=--upgrade
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" $(ARGS) --output-file requirements.lock pyproject.toml

bench: ## which benchmarks there are
	@awk 'BEGIN {FS = ":.*## "} /^bench-[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2; n++} \
		END {if (!n) print "  none yet"}' $(MAKEFILE_LIST)

.PHONY: bench-tools bench-capture bench-weblogs
bench-tools: setup
	@cmp -s bench/requirements.txt bench/.venv/made-from || { "$(BASE_PYTHON)" -m venv bench/.venv && \
		bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt && \
		cp bench/requirements.txt bench/.venv/made-from; }

bench-capture: bench-tools ## capture into the star beside psql, sling and dbt (5 min; ARGS="--orders 100000")
	@$(PY) -m bench.capture $(ARGS)

bench-weblogs: bench-tools ## web logs beside bare COPY, dlt, pandas and goaccess (5 min; ARGS="--lines 10000000")
	@$(PY) -m bench.weblogs $(ARGS)

clean: down ## remove .venv and caches; data stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build

clean-data: down ## remove the local stack's databases and runs for good
	rm -rf .dwh

##@ Faults
.PHONY: fault-capture fault-kill fault-starts fault-reconcile
COMMITS := 200000
KILLS := 650
STARTS := 100
fault-capture: setup ## 11 writers against the shop while ingest-shop goes on; COMMITS=1000000 takes about 10 minutes
	@$(PY) -m tests.faults.capturing --commits $(COMMITS) $(ARGS)

fault-kill: setup ## kill -9 of client, backend and server under flows that are run again; 650, at every point, take half an hour
	@$(PY) -m tests.faults.killing --kills $(KILLS) $(ARGS)

fault-starts: setup ## flows started at the same moment, the same and different ones; STARTS=100
	@$(PY) -m tests.faults.starting --starts $(STARTS) $(ARGS)

fault-reconcile: setup ## a repair that is killed half-way leaves nothing; the next one mends all (half a minute)
	$(PY) -m pytest -q -m slow tests/integration/test_reconcile_command.py $(ARGS)
