# `make demo` and `make test` work on a machine with only Python (>= 3.11) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup test check demo demo-incidents up down bench chaos simulate review-sim clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Most tests wait for processes, so there are more of them at once than processors. TESTS="tests/test_kills.py -x" runs some.
test: check
	$(BIN)/python -m pytest -n $(or $(WORKERS),4) --dist loadfile --no-loadscope-reorder $(TESTS)

demo: setup
	$(BIN)/python -m deployments demo --keep

# Alerts of a real Prometheus and Alertmanager, from SEED; JSON=FILE keeps the figures, DATA=DIR plays real series (a
# copy of NAB), KEEP=1 leaves all of it up at the end.
demo-incidents: setup
	$(BIN)/python -m deployments.demo_incidents --seed $(or $(SEED),1) $(if $(JSON),--json $(JSON)) \
		$(if $(DATA),--data $(DATA)) $(if $(KEEP),--keep)

up: setup
	$(BIN)/python -m deployments up

down: setup
	$(BIN)/python -m deployments down

# What durability costs, and what replays and caching save (`N% less`); JSON=FILE keeps the figures.
bench: setup
	$(BIN)/python -m tests.bench.speed $(if $(JSON),--json $(JSON))

# N scenarios from SEED on DB (sqlite or postgres), each with at least one kill; JSON=FILE keeps the figures and lets a
# run that was ended go on. SKILL=skills.my_skill:my_skill kills yours, on mails from INBOX=MAILDIR. JOBS runs some
# at once, SHARD=1/3 plays one third of them, ONLY=NUMBER one.
chaos: setup
	$(BIN)/python -m tests.chaos --n $(or $(N),100) --seed $(or $(SEED),1) --db $(or $(DB),sqlite) --jobs $(or $(JOBS),1) \
		$(if $(JSON),--json $(JSON)) $(if $(SKILL),--skill $(SKILL)) $(if $(INBOX),--inbox $(INBOX)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(SHARD),--shard $(SHARD))

# The core in a simulated world: N interleavings of processes, kills, freezes and clocks from a SEED.
simulate: setup
	$(BIN)/python -m tests.simulation --stories $(or $(N),20000) --seed $(or $(SEED),1)

# Half a year of real tickets with and without the review; README says where DATA comes from. DRIFT=1: new intents in week 8.
review-sim: setup
	$(BIN)/python -m tests.half_year --data $(DATA) --target $(or $(TARGET),0.08) --seed $(or $(SEED),1) \
		$(if $(SURE),--sure $(SURE)) $(if $(DRIFT),--drift) $(if $(JSON),--json $(JSON))

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
