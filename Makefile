# Everything here sets up what it needs by itself: Python 3.10 or newer, make and the network are enough.
# PYTHON chooses the interpreter, and each has an environment of its own.

PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venvs/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))

# What to hand to pytest, as in TESTS="tests/unit -k spans", and whether to report coverage.
TESTS ?=
COVERAGE ?= 0

# What to hand to the soak, as in SOAK="--kind base --seed 7"; every kind by default.
SOAK ?=

# What to hand to the kernel matrix, as in KERNELS="--only 5.10" or KERNELS="--sequences 100"; every kernel by default.
KERNELS ?=

# What to hand to the benchmarks, as in BENCH="--quick" or BENCH="discard stall"; all of them by default.
BENCH ?=

.PHONY: help demo test test-all check format bench soak kernels wheel clean distclean

help:
	@echo 'make demo                       the whole story on a real process, in half a minute'
	@echo 'make test [PYTHON=python3.10]   all tests; COVERAGE=1 measures coverage, and takes three times as long'
	@echo 'make test-all                   all tests, on every supported Python that is here'
	@echo 'make check                      lint, format, types and the floors of the architecture'
	@echo 'make format                     write the sources as the formatter likes them'
	@echo 'make bench [BENCH=--quick]      the benchmarks, each beside its peers'
	@echo 'make soak [SOAK="--kind base"]    the model against the running kernel, hours of random operations; root'
	@echo 'make kernels [KERNELS=--only…]  boot distribution kernels and hold the model against each'
	@echo 'make wheel                      the wheel, in dist/'
	@echo 'make clean, make distclean      remove what was built; and the environments too'

demo: $(VENV)/.runtime
	@$(VENV)/bin/dontneed demo

test: $(VENV)/.dev
	@$(VENV)/bin/python -m pytest -q $(if $(filter 1,$(COVERAGE)),--cov --cov-report=term) $(TESTS)

test-all:
	@for python in $$(tools/interpreters.sh); do echo "== $$python" && $(MAKE) --no-print-directory test PYTHON=$$python || exit; done

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.dev
	@$(VENV)/bin/python benchmarks/run.py $(BENCH)

soak: $(VENV)/.dev
	@PYTHONPATH=tests $(VENV)/bin/python -m differential.soak $(SOAK)

kernels: $(VENV)/.dev
	@PYTHONPATH=tests $(VENV)/bin/python tests/kernels/run.py $(KERNELS)

wheel: $(VENV)/.runtime
	@$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bin src tests tools benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venvs

# An environment is a directory with a stamp in it for each thing that was installed there.

INSTALLED := pyproject.toml hatch_build.py $(wildcard src/native/*) bin/dontneed tools/environment.sh

$(VENV)/.runtime: $(INSTALLED)
	@tools/environment.sh $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.dev: $(INSTALLED)
	@tools/environment.sh $(PYTHON) $(VENV) dev
	@touch $(VENV)/.runtime $@
