# make build | demo | test | lint | bench | clean       PYTHON=... chooses the interpreter of .venv

SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
COMPILED := setup.py $(wildcard csrc/*.[ch] bulkmail/*.p[yx]* bulkmail/*/*.pyx bulkmail/*/*.pxd)
export PYTHON

.PHONY: help build demo test lint bench bench-micro clean
help:
	@sed -n 's/^# //p' Makefile

build: $(VENV)/.built

demo: build
	@echo "== demo: a personalised newsletter to $(or $(RECIPIENTS),5000) subscribers, into a receiving server of our own"
	@$(PY) scripts/demo --recipients $(or $(RECIPIENTS),5000)

# ARGS goes to pytest: make test ARGS="tests/unit -k reply"
test: $(VENV)/.dev build
	@echo "== tests"
	@$(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev build
	@echo "== lint: ruff; layers, file sizes and stubs; mypy"
	@wrong=0; $(VENV)/bin/ruff check . || wrong=1; $(PY) scripts/check_source.py || wrong=1; $(VENV)/bin/mypy || wrong=1; exit $$wrong

# BENCH=quick (three minutes), normal (all that has a goal, some twenty minutes), full (everything, five rounds).
# ARGS=--readme puts the table of goals into README.md and docs/performance.md
bench: $(VENV)/.bench build
	@echo "== bench: bulkmail beside its peers ($(or $(BENCH),normal))"
	@scripts/bench-setup
	@$(PY) benchmarks/peers/run.py --effort $(or $(BENCH),normal) $(ARGS)

bench-micro: $(VENV)/.dev $(VENV)/.bench build
	@echo "== bench-micro: kernels, replies, sessions, composing, journal, manifest"
	@$(PY) -m pytest benchmarks/micro --benchmark-only $(ARGS)

clean:
	@echo "== removing what make made: $(VENV), build, demo, .bench, compiled modules"
	@rm -rf $(VENV) .bench build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	@find bulkmail \( -name '*.so' -o -name '*.c' -o -name '*.pyd' \) -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml scripts/make-venv scripts/find-python
	@echo "== setting up $(VENV) (only the first time)"
	@scripts/make-venv $(VENV)
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(COMPILED)
	@echo "== compiling what has changed"
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "== adding tools for tests and lint to $(VENV)"
	@scripts/make-venv $(VENV) test lint
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	@echo "== adding tools for benchmarks to $(VENV)"
	@scripts/make-venv $(VENV) bench
	@touch $@
