# `make` lists the targets. Each sets up what it needs: system packages (.ci/packages lists missing
# ones, and installs them if it may), a venv in .venv, the compiled modules in place.
#
# PYTHON=python3.13 chooses another Python, at least 3.11, for a venv that does not exist yet.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
REQUIREMENTS := $(PY) -c "import functools, sys, tomllib; print(*functools.reduce(dict.get, sys.argv[1:], tomllib.load(open(0, 'rb'))), sep='\n')"
FLOOR_VENV := $(CURDIR)/build/floors/venv
FLOOR_LIB := $(CURDIR)/build/floors/lib
FLOOR_TESTS ?= tests/unit tests/scenarios tests/integration/test_monitor.py tests/integration/test_daemon_addresses.py
JOBS ?= $(shell nproc)
WORKERS ?= $(shell expr 3 \* $(JOBS))
SOURCES := $(wildcard src/carp_fast/* src/carp_fast/*/*) setup.py
PACKAGE := $(wildcard carp_fast/*.py carp_fast/*/*.py)
SECONDS ?= 60
SANITIZED := $(CURDIR)/build/sanitize/lib
SANITIZED_PYTHON := LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED):$(CURDIR) $(PY)

export PIP_ROOT_USER_ACTION := ignore
# Tests start the daemon a thousand times: it is not to be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-paths test-floors check bench simulate chaos build annotate sanitize fuzz clean build-packages test-packages

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.built ## a master of 1,000 virtual hosts is killed, the take-over is measured (root)
	$(PY) -m carp_fast demo

# Tests mostly wait for elections: several run together on a core. Those that run alone come first:
# one process leaves the compiled tests in the cache, which several would each compile for themselves.
test: test-packages check ## check, then every test (as root: with network namespaces, ucarp, keepalived)
	$(PY) -m pytest --durations=5 -m alone
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --durations=5 -m "not alone"

# COMBINATIONS in tests/support/paths.py; less than 25 minutes on two free cores. WITH: one of them.
# A test that is `alone` has its paths in `make test`.
test-paths: WITH = all
test-paths: test-packages $(VENV)/.dev $(VENV)/.built ## tests that run daemons, with other send and receive paths and local routes (root)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --durations=5 --paths $(WITH) tests/integration tests/interop

# cython-lint finds pycodestyle by PATH.
check: $(VENV)/.dev $(VENV)/.built ## ruff, cython-lint and mypy
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint src
	$(PY) -m mypy

bench: $(VENV)/.dev $(VENV)/.built ## compare the compiled core with pure Python and the standard library
	$(PY) -m pytest benches

simulate: $(VENV)/.built ## the election in 10,000 small simulated worlds and 100 large ones
	$(PY) -m carp_fast simulate --seeds 1-10000 --jobs $(JOBS)
	$(PY) -m carp_fast simulate --seeds 1-100 --large --jobs $(JOBS)

# CASES: names or patterns, with commas. SECONDS: how long a condition lasts. PROGRAMS: also ucarp and
# keepalived, or all; they are measured, not judged.
chaos: CASES = *
chaos: SECONDS = 30
chaos: PROGRAMS = carp-fast
chaos: REPEATS = 1
chaos: SEED = 1
chaos: test-packages $(VENV)/.dev $(VENV)/.built ## faults put on running daemons, judged from outside (root)
	$(PY) -m tests.chaos --cases '$(CASES)' --seconds $(SECONDS) --programs $(PROGRAMS) --repeats $(REPEATS) --seed $(SEED)

build: $(VENV)/.dev ## a wheel and an sdist in dist/
	$(PY) -m build

annotate: $(VENV)/.dev ## the Cython sources as HTML in build/annotate, yellow where Python is called
	CARP_FAST_ANNOTATE=build/annotate $(PY) setup.py --quiet --name
	@find build/annotate -name '*.html'

sanitize: $(SANITIZED)/.built ## the unit tests on modules built with the address and undefined sanitizers
	$(SANITIZED_PYTHON) -m pytest --override-ini=pythonpath= tests/unit

fuzz: $(SANITIZED)/.built ## wire, control and election fuzzers on those modules, SECONDS=60 each; or REPLAY=FILE
	$(SANITIZED_PYTHON) -m tests.fuzz $(if $(REPLAY),--replay "$(REPLAY)",--seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(FUZZERS))

$(SANITIZED)/.built: $(SOURCES) $(PACKAGE) $(VENV)/.dev $(VENV)/.built
	CARP_FAST_CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover" \
	CARP_FAST_LDFLAGS="-fsanitize=address,undefined" \
	$(PY) setup.py --quiet build --build-base build/sanitize --build-lib $(SANITIZED)
	$(SANITIZED_PYTHON) -c "import carp_fast.pump._pump as m; assert m.__file__.startswith('$(SANITIZED)'), m.__file__"
	@touch $@

# Uses a separate venv and build. Indirect dependencies, which have no floor, are the newest ones.
test-floors: test-packages ## the unit tests and some of the others at the lowest version of every requirement
	rm -rf $(FLOOR_VENV) && $(PYTHON) -m venv $(FLOOR_VENV)
	@for part in "build-system requires" "project dependencies" "project optional-dependencies dev"; do \
		$(subst $(PY),$(FLOOR_VENV)/bin/python,$(REQUIREMENTS)) $$part <pyproject.toml; done | sed -E 's/>=([^,]+).*/==\1/' | sort -u >$(FLOOR_VENV)/floors.txt
	@cat $(FLOOR_VENV)/floors.txt
	$(FLOOR_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --requirement $(FLOOR_VENV)/floors.txt
	$(FLOOR_VENV)/bin/python setup.py --quiet build --build-base build/floors --build-lib $(FLOOR_LIB)
	PYTHONSAFEPATH=1 PYTHONPATH=$(FLOOR_LIB) $(FLOOR_VENV)/bin/python -c "import carp_fast.pump._pump as m; assert m.__file__.startswith('$(FLOOR_LIB)'), m.__file__"
	PYTHONSAFEPATH=1 PYTHONPATH=$(FLOOR_LIB):$(CURDIR) $(FLOOR_VENV)/bin/python -m pytest --override-ini=pythonpath= -n 2 $(FLOOR_TESTS)

clean: ## remove what was built, and the venv
	rm -rf $(VENV) build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find carp_fast -name "*.so" -delete
	find carp_fast tests benches -name __pycache__ -prune -exec rm -rf {} +

# Set-up. Each stamp file in the venv is newer than the files made from its prerequisites.

build-packages:
	@.ci/packages build $(PYTHON)

test-packages:
	@.ci/packages test $(PYTHON)

$(VENV)/.made: | build-packages
	$(PYTHON) -m venv $(VENV)
	@touch $@

# pyproject.toml has the requirements. The package itself is not installed but used in place, with its
# modules compiled here: pip would compile all of them whenever one has changed.
$(VENV)/.runtime: pyproject.toml $(VENV)/.made
	$(REQUIREMENTS) build-system requires <pyproject.toml >$@.txt
	$(REQUIREMENTS) project dependencies <pyproject.toml >>$@.txt
	$(PIP) install --requirement $@.txt
	@touch $@

# So that the venv finds the package from every directory, and `python -P` finds it here.
$(VENV)/.found: $(VENV)/.made
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" >$@.txt
	echo "$(CURDIR)" >"$$(cat $@.txt)/carp-fast-checkout.pth"
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(REQUIREMENTS) project optional-dependencies dev <pyproject.toml >$@.txt
	$(PIP) install --requirement $@.txt
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.runtime $(VENV)/.found
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@
