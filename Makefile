# Everything here works in a fresh clone with Python 3.11 or newer and make; `make help` lists it.

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# What depends on the database runs a second time, on PostgreSQL. The original's files are about words
# and not about rows: the commands that read them have tests of their own, which run on both.
DATABASE_TESTS := $(wildcard $(addprefix tests/,harness bank relay integration attacks races faults) \
	tests/bankproject/test_logged_errors.py)
NOT_POSTGRESQL := --ignore=tests/integration/test_original_configuration.py
# What is about PostgreSQL itself, and starts one whatever the rest runs on, runs in that pass alone.
NOT_SQLITE := --ignore=tests/races --ignore=tests/integration/test_deployment.py \
	--ignore=tests/bank/test_production_role.py \
	--deselect=tests/bankproject/test_logged_errors.py::test_a_message_that_quotes_a_value_is_left_out \
	--deselect=tests/harness/test_databases.py::test_postgresql_is_there_whatever_the_session_runs_on
# Each of the workers has databases and servers of its own; a file's tests stay together, and
# `tests/conftest.py` says which come first.
WORKERS ?= 3
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Many tests are about real processes and time-outs, and workers compete for two cores: what failed
# is run once more by itself, and is a failure if it fails again.
ALONE := $(PY) -m pytest --last-failed --last-failed-no-failures none
LOCK := $(VENV)/bin/uv pip compile --no-config --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock"

# Values that satisfy the production settings for a check that connects to nothing.
THROWAWAY_PRODUCTION = DJANGO_SETTINGS_MODULE=bankproject.settings.production \
	TELLERWIRE_SECRET_KEY=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(64))') \
	TELLERWIRE_ALLOWED_HOSTS=bank.example \
	TELLERWIRE_RELAY_NAME=relay.example \
	TELLERWIRE_DATABASE_URL=postgresql://nobody@127.0.0.1:1/bank \
	TELLERWIRE_RELAY_DATABASE_URL=postgresql://nobody@127.0.0.1:1/relay \
	TELLERWIRE_REDIS_URL=redis://127.0.0.1:1/0

# Python keeps what it has compiled, whatever the machine's default is: the tests start hundreds of
# processes, and each would compile the whole project anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo run test test-sqlite test-postgresql check bench lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## two people, a bank and a relay: money moves, seconds long, on fresh data
	$(PY) -m bankproject.demo

run: $(RUNTIME) ## the same, and it stays until Ctrl-C
	$(PY) -m bankproject.demo --stay

test: test-sqlite test-postgresql ## everything on SQLite, then what knows a database on PostgreSQL

test-sqlite: $(TOOLS) ## every test but those about PostgreSQL itself, with SQLite and Redis
	export TELLERWIRE_TEST_DATABASE=sqlite; \
	$(PYTEST) tests $(NOT_SQLITE) || $(ALONE) tests $(NOT_SQLITE)

test-postgresql: $(TOOLS) ## the tests that know a database, with PostgreSQL and Redis
	export TELLERWIRE_TEST_DATABASE=postgresql; \
	$(PYTEST) $(DATABASE_TESTS) $(NOT_POSTGRESQL) || $(ALONE) $(DATABASE_TESTS) $(NOT_POSTGRESQL)

check: $(TOOLS) ## style, types, deployment checks, migrations, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict protocol clients
	$(VENV)/bin/mypy bankproject relay bank tests manage.py $(wildcard benchmarks)
	env $(THROWAWAY_PRODUCTION) $(PY) manage.py check --deploy --fail-level WARNING
	TELLERWIRE_DATA_DIR=$(VENV)/check $(PY) manage.py makemigrations --check --dry-run
	$(PY) -m pytest tests/architecture

bench: $(TOOLS) ## every benchmark, one after the other
	@set -e; for script in $$(grep -l '^if __name__' benchmarks/*.py); do \
		echo "== $$script"; $(PY) -m benchmarks.$$(basename $$script .py); \
	done

lock: $(TOOLS) ## pin the direct dependencies of *.in with hashes (UPGRADE=--upgrade for newer ones)
	$(LOCK) $(UPGRADE) requirements.in -o requirements.txt
	$(LOCK) $(UPGRADE) requirements-dev.in -o requirements-dev.txt

clean: ## remove the environment, caches and local data
	rm -rf $(VENV) var staticfiles .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@for python in python3.11 python3 python; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$($$python --version), once."; \
			$$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
			exit 0; \
		fi; \
	done; \
	echo "Tellerwire needs Python 3.11 or newer as python3.11 or python3 on the PATH." >&2; exit 1

$(RUNTIME): requirements.txt | $(PY)
	@echo "Installing what runs (half a minute, once)."
	@$(PIP) install --require-hashes -r requirements.txt
	@touch $@

$(TOOLS): requirements.txt requirements-dev.txt | $(PY)
	@echo "Installing what tests and checks need (a minute, once)."
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $(RUNTIME) $@
