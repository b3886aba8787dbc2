# `make` or `make help` lists the targets. Everything is installed into this folder. ARGS is passed to the command:
# make demo ARGS="--rows 100000"

SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE

# Relative paths, since the path of this folder may contain spaces.
PY := .venv/bin/python
DWH := .venv/bin/dwh
ARGS :=
WORKERS := 3
PYTEST := $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --durations 15 -m "not slow"
BASE_PYTHON := $(shell for p in $(PYTHON) python3.12 python3.11 python3.13 python3 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

##@ Start here
.PHONY: help setup demo test
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo

setup: ## install everything into .venv (other targets run it as needed)
	@[ -n "$(BASE_PYTHON)" ] || { echo "Python 3.11 or newer is needed; make PYTHON=/path/to/python3 setup" >&2; exit 1; }
	@"$(BASE_PYTHON)" bootstrap.py

demo: setup ## run the whole pipeline on generated data: shop, web logs, changes, marts, report
	@$(DWH) demo $(ARGS)

test: lint test-18 test-16 ## run linters, all tests on PostgreSQL 18, and those that depend on the version on 16

##@ Local stack
.PHONY: up down status deploy
up: setup ## start embedded PostgreSQL and the Prefect server with its UI
	@$(DWH) up $(ARGS)

down: ## stop them; keep the data
	@[ ! -x $(DWH) ] || $(DWH) down $(ARGS)

status: setup ## show the last runs, freshness of each table, quarantine
	@$(DWH) status $(ARGS)

deploy: setup ## register all deployments and schedules at PREFECT_API_URL, or on the local stack
	@$(DWH) deploy $(ARGS)

##@ Development
.PHONY: lint audit test-unit test-18 test-16 test-slow test-histories test-weblog-kills test-cloud test-containers format lock bench clean clean-data
.NOTPARALLEL:
lint: setup ## run ruff, mypy, import-linter and sqlfluff
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	.venv/bin/lint-imports
	# At the same time: mypy works on one core. All tests can be collected, which compiles them: once, not in each worker.
	$(PY) -m mypy & types=$$!; \
	git ls-files -z '*.sql' ':!bench' ':!warehouse/migrations' | xargs -0 $(PY) -m sqlfluff lint --processes $(WORKERS); \
	sql=$$?; tests=$$($(PY) -m pytest -q --collect-only 2>&1) || { tail -n 30 <<< "$$tests"; sql=1; }; \
	wait $$types && exit $$sql

audit: setup ## check the pinned dependencies against known vulnerabilities (pip-audit; needs its database's service)
	$(PY) -m pip install --quiet --target .audit pip-audit
	@PYTHONPATH=.audit $(PY) -m pip_audit --strict --requirement requirements.lock --no-deps --disable-pip 2> .audit/errors; status=$$?; \
	cat .audit/errors >&2; if grep -q -i "connection\|timed out\|name resolution\|could not be audited\|not found on PyPI" .audit/errors; \
	then echo "The database of vulnerabilities cannot be reached from here: nothing was checked."; fi; exit $$status

test-unit: setup ## run the unit tests: seconds, no database
	$(PYTEST) tests/unit $(ARGS)

test-18: setup ## run all tests on PostgreSQL 18; ARGS="-k history" selects some
	$(PYTEST) $(ARGS)

# Tests of what depends on the server's major version: snapshots, SQL of every path, schema, privileges. They carry a
# marker; the others run on 18 only.
test-16: setup ## run tests of SQL, schema and privileges on PostgreSQL 16
	DWH_TEST_PG_MAJOR=16 $(subst not slow,each_major and not slow,$(PYTEST)) \
		$$(grep -rl --include="*.py" mark.each_major tests) $(ARGS)

test-slow: setup ## run the slow tests: larger values, more histories, every signal (an hour)
	$(PY) -m pytest -q -m slow $(ARGS)

test-histories: setup ## compare incremental and fresh loads after 10,000 random histories; MANY_HISTORIES=500 SEED=x plays others
	$(PY) -m pytest -q -m slow tests/integration/test_same_star.py $(ARGS)

test-weblog-kills: setup ## kill retention and re-classification of web logs at many points and run them again
	$(PY) -m pytest -q -m slow tests/integration/test_weblog_reclassify.py tests/integration/test_weblog_retention.py $(ARGS)

test-cloud: setup ## deploy to a stand-in for Prefect Cloud, and run there: worker, schedule, watchdog, links (3 min)
	$(PY) -m pytest -q -m slow tests/flows/test_cloud.py $(ARGS)

test-containers: setup ## run image and compose file in podman, with stand-ins for images that cannot be pulled (root; 20 min)
	@[ -x .containers/bin/podman-compose ] || { "$(BASE_PYTHON)" -m venv .containers && \
		.containers/bin/python -m pip install --quiet podman-compose==1.6.0; }
	@PATH="$(CURDIR)/.containers/bin:$$PATH" $(PY) -m tests.containers $(ARGS)

format: setup ## format and fix the code with ruff and sqlfluff
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	git ls-files -z '*.sql' ':!bench' ':!warehouse/migrations' | xargs -0 $(PY) -m sqlfluff fix --processes $(WORKERS)

lock: setup ## update requirements.lock from pyproject.toml; newest versions: ARGS=--upgrade
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" $(ARGS) --output-file requirements.lock pyproject.toml

bench: ## list the benchmarks
	@awk 'BEGIN {FS = ":.*## "} /^bench-[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2; n++} \
		END {if (!n) print "  none yet"}' $(MAKEFILE_LIST)

.PHONY: bench-tools bench-capture bench-weblogs bench-marts bench-feeds bench-geoip bench-api bench-live
bench-tools: setup
	@cmp -s bench/requirements.txt bench/.venv/made-from || { "$(BASE_PYTHON)" -m venv bench/.venv && \
		bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt && \
		cp bench/requirements.txt bench/.venv/made-from; }

bench-capture: bench-tools ## compare capture into the star with psql, sling and dbt (6 min; ARGS="--growth-only --orders 10000000")
	@$(PY) -m bench.capture $(ARGS)

bench-weblogs: bench-tools ## compare loading web logs with COPY, dlt, pandas and goaccess (5 min; ARGS="--lines 10000000")
	@$(PY) -m bench.weblogs $(ARGS)

bench-marts: setup ## time every mart and dashboard query, 1,000,000 orders, 20,000,000 requests (10 min, 20 GB; ARGS="--orders 20000 --requests 100000")
	@$(PY) -m bench.marts $(ARGS)

bench-feeds: bench-tools ## compare the order feed with dlt and DuckDB; time the archive and a rebuild (15 min; ARGS="--only orders")
	@$(PY) -m bench.feeds $(ARGS)

bench-api: setup ## place orders through the API by 8 clients, beside psql (3 min; ARGS="--orders 2000 --rounds 2")
	@$(PY) -m bench.api $(ARGS)

bench-live: setup ## freshness of live under load, from the API's answer to mart.sales (15 min; ARGS="--seconds 60 --shop 20000 --rate 20")
	@$(PY) -m bench.live $(ARGS)

bench-geoip: setup ## look up countries in a GeoIP file with three million networks (1 min)
	@$(PY) -m bench.geoip $(ARGS)

clean: down ## remove .venv and caches; keep the data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build

clean-data: down ## delete the local stack's databases and run history
	rm -rf .dwh

##@ BI tools
.PHONY: bi-superset bi-libreoffice
SUPERSET := tests/bi/.venv
bi-superset: setup ## import the dashboards into Apache Superset, run every chart's query, look at them (10 min, 1 GB)
	@cmp -s deployments/superset/requirements.txt $(SUPERSET)/made-from || { "$(BASE_PYTHON)" -m venv $(SUPERSET) && \
		$(SUPERSET)/bin/python -m pip install --quiet --disable-pip-version-check -r deployments/superset/requirements.txt && \
		cp deployments/superset/requirements.txt $(SUPERSET)/made-from; }
	@$(PY) -m pytest -q -m slow --timeout 1200 tests/bi/test_superset.py $(ARGS)

bi-libreoffice: setup ## open the lead sheet in LibreOffice, which is installed from Debian where it is missing (2 min)
	@command -v soffice > /dev/null || { apt-get update --quiet && \
		apt-get install --yes --quiet --no-install-recommends libreoffice-calc poppler-utils; }
	@$(PY) -m pytest -q -m slow tests/bi/test_libreoffice.py $(ARGS)

##@ Fault injection
.PHONY: fault-capture fault-kill fault-starts fault-reconcile
COMMITS := 200000
KILLS := 650
STARTS := 100
fault-capture: setup ## run ingest-shop while 11 sessions write to the shop (COMMITS=1000000: 10 min)
	@$(PY) -m tests.faults.capturing --commits $(COMMITS) $(ARGS)
	@$(PY) -m tests.faults.capturing --commits $(COMMITS) --range-rows 500 --result tests/faults/results/capture_large.json $(ARGS)

fault-kill: setup ## kill -9 client, backend or server during loads, replays, undo, rebuilds and exports, and run them again (KILLS=650: an hour)
	@$(PY) -m tests.faults.killing --kills $(KILLS) $(ARGS)

fault-starts: setup ## start many flows at the same moment (STARTS=100)
	@$(PY) -m tests.faults.starting --starts $(STARTS) $(ARGS)

fault-reconcile: setup ## kill a repair half-way; it must leave no trace, and the next one repair everything (30 s)
	$(PY) -m pytest -q -m slow tests/integration/test_reconcile_command.py $(ARGS)
