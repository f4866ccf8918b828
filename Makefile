# Every target works on a fresh Linux or macOS with Python 3.11 or later and git. GNU make 3.81 and POSIX sh do.

SHELL = /bin/sh
PYTHON_OF_VENV = .venv/bin/python
# Of the caller's shell; they would mix foreign packages in.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
# It would have every process compile every module anew, which makes each start take three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL = help
.PHONY: help environment demo test chaos simulation screenshots bench check lint types imports migrations audit lock clean

help: ## This list
	@echo 'make TARGET; the first that needs it builds .venv.'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F '|' '{ printf "%-14s %s\n", $$1, $$2 }'

environment:
	@sh .bootstrap/environment

demo: environment ## Everything at once, with a pretend Wix, until Ctrl-C; ONCE=1 ends by itself, with 0 if the books are right
	@exec $(PYTHON_OF_VENV) -m processor demo $(if $(filter-out 0 no false,$(ONCE)),--once) $(ARGS)

test: environment ## All tests, on a real PostgreSQL and Valkey; ARGS='-k money' chooses
	@exec $(PYTHON_OF_VENV) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: environment ## Processes, servers and links hurt under load, and the proof that nothing is lost; ARGS='--faults 500 --seed 7'
	@exec $(PYTHON_OF_VENV) -m tests.chaos $(ARGS)

simulation: environment ## Stories by a seed in which everything goes wrong at Wix, and the proof of the books; ARGS='--seeds 50', ARGS='--seed 17' tells one
	@exec $(PYTHON_OF_VENV) -m tests.simulation $(ARGS)

screenshots: environment ## Pictures of every page, wide and narrow, light and dark; ARGS='--only payments'
	@exec $(PYTHON_OF_VENV) -m tests.web.pages.screenshots $(ARGS)

bench: environment ## Every promised figure beside its goal; a C compiler is needed; ARGS='--quick' is short, ARGS=--full stores 10,000,000 events
	@exec $(PYTHON_OF_VENV) -m benchmarks $(ARGS)

check: lint types imports migrations audit ## lint, types, imports, migrations and audit

lint: environment ## Style and common mistakes (ruff)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: environment ## Types (mypy, strict)
	$(PYTHON_OF_VENV) -m mypy

imports: environment ## Who may import whom (import-linter; docs/architecture.md has the picture)
	.venv/bin/lint-imports

migrations: environment ## What migrations would do to a busy database (squawk); is their schema that of the models
	$(PYTHON_OF_VENV) .ci/migrations.py
	$(PYTHON_OF_VENV) -m pytest --quiet tests/test_migrations.py

audit: environment ## Known vulnerabilities of what is locked (pip-audit)
	$(PYTHON_OF_VENV) .ci/audit.py

lock: environment ## Lock the dependencies of pyproject.toml anew; UPGRADE=1 takes newer versions
	@sh .bootstrap/lock

clean: ## Remove .venv, the demo's data and caches
	rm -rf .venv .data .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
