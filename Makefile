# Everything here works on a bare machine with Python >= 3.11: the first target that needs packages makes .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: translations bench bench-admin browser clients contract coverage image-test load-test help run test faults lint format lock prices clean pages screenshots
MAKEFLAGS += --no-print-directory

# The first that is new enough: `make PYTHON=…` overrules it.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --require-hashes
PRODUCTION := $(PY) -m tests.production_env $(CURDIR)/$(PY)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.prod ## Start a demo at 127.0.0.1:8000 (HOST, PORT, DATABASE_URL, REDIS_URL and AIPROXY_* are honoured)
	@exec $(PY) manage.py quickstart

# Tests wait as much as they compute: a few more processes than two cores have. A file's tests stay together.
PYTEST := pytest --numprocesses 3 --dist loadscope --quiet $(PYTEST_ARGS)

test: .venv/.dev ## Run every test on SQLite, and those of the database also on PostgreSQL
	@$(PY) -m $(PYTEST) --database sqlite
	@$(PY) -m $(PYTEST) --database postgres

coverage: .venv/.dev ## Run the tests and list the lines that none reaches; fails under 90 % (takes twice as long)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m $(PYTEST) --database sqlite
	@$(BIN)/coverage run -m $(PYTEST) --database postgres
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

# Fetches packages, and mounts: on Linux, as root.
image-test: .venv/.dev ## Run the Dockerfile's steps without an engine, and compose.yaml's services in what they make
	@$(PY) -m pytest --quiet -m image --database postgres -o faulthandler_timeout=900 tests/test_image.py

REQUESTS ?= 1000000
bench-admin: .venv/.dev ## Measure the back-office on a throw-away PostgreSQL of made-up traffic (REQUESTS=1000000, BENCH_ARGS)
	@$(PY) -m benchmarks.backoffice --requests $(REQUESTS) $(BENCH_ARGS)

browser: ## Install Chromium, without which the browser tests are skipped (Debian; asks for sudo unless you are root)
	@sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq --no-install-recommends chromium

pages: .venv/.dev ## Look at every page in a browser, not just one of each kind (needs one: make browser)
	@AIPROXY_EVERY_PAGE=1 $(PY) -m $(PYTEST) --database postgres tests/browser

screenshots: .venv/.dev ## Draw docs/screenshots anew, of made-up people and traffic (needs a browser: make browser)
	@AIPROXY_SCREENSHOTS=$(CURDIR)/docs/screenshots $(PY) -m pytest --quiet --database postgres tests/browser/test_screenshots.py

SECONDS ?= 60
faults: .venv/.dev ## Break everything at random under load, and count every row (SECONDS=60, SEED=random)
	@$(PY) -m faults --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lint: .venv/.dev ## Check style, types, import directions, migrations, production settings and OpenAPI
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PRODUCTION) -m mypy
	$(BIN)/lint-imports
	$(PRODUCTION) manage.py makemigrations --check --dry-run
	$(PRODUCTION) manage.py check --deploy --fail-level WARNING
	$(PRODUCTION) manage.py spectacular --validate --fail-on-warn --file /dev/null

clients: .venv/.dev ## Run real clients, each in its own environment, against providers' servers by others (CLIENTS_ARGS)
	@$(PY) -m clients $(CLIENTS_ARGS)

bench: .venv/.dev ## Measure this service beside nginx and its peers (QUICK=1: in about two minutes; BENCH_ARGS)
	@$(PY) -m benchmarks.run $(BENCH_ARGS)

load-test: .venv/.dev ## Run the specification's load test here (BASE and KEY: against a running service on loopback)
	@BASE="$(BASE)" KEY="$(KEY)" $(PY) -m benchmarks.load --scenario specification

format: .venv/.dev ## Put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Hashes of every platform's files, and no address of an index: the files hold wherever packages come from.
lock: .venv/.dev ## Pin requirements/*.in anew (UPGRADE=1: to the newest versions)
	cd requirements && for name in base prod otel dev; do \
		../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-header $(if $(UPGRADE),--upgrade) --output-file $$name.txt $$name.in || exit 1; done
	@$(MAKE) .venv/.dev && $(PY) -m tests.licences > docs/licences.md

prices: .venv/.dev ## Make the price book anew from the pinned price packages (first: make lock UPGRADE=1)
	@$(PRODUCTION) manage.py make_price_book

contract: .venv/.dev ## Ask a running service all that its OpenAPI says can be asked, rightly and wrongly (Schemathesis)
	@$(PY) -m tests.contract

translations: .venv/.dev ## Look for texts that have no translation yet, and compile those that have one (locale/)
	@$(PY) -m tests.translations

clean: ## Remove what the commands above made, but for .env and var/ (the demo's secrets and data)
	rm -rf .venv .coverage .coverage.* htmlcov staticfiles .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "aiproxy needs Python 3.11 or newer, and none is on the PATH:" \
		"install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"

.venv/.prod: requirements/prod.txt | .venv/bin/python
	@echo "Installing requirements/prod.txt …"
	@$(PIP) -r requirements/prod.txt
	@touch $@

.venv/.dev: requirements/dev.txt | .venv/bin/python
	@echo "Installing requirements/dev.txt …"
	@$(PIP) -r requirements/dev.txt
	@touch $@
