# Every command sets itself up: .venv is made on first use, and made again when the lock file, pyproject.toml
# or the place of this folder changes. Variables:
#   make PYTHON=python3.13 test   another interpreter for .venv
#   make ACTIVE=1 test            the environment that is active now (conda, a CPU build of torch), no .venv
#   make MIN_DISK_GB=0 setup      without the check for free disk space

PYTHON ?= python3
MIN_DISK_GB ?= 8
UV := uv>=0.8,<1
ENGINE = $(BIN)python -m nbutils

ifdef ACTIVE
BIN :=
READY :=
else
BIN := .venv/bin/
STAMP := .venv/.ready-$(shell { pwd; cat requirements.lock pyproject.toml; } | cksum | cut -d ' ' -f 1)
READY := $(STAMP)
# An interpreter asked for by name must be the one .venv was made with; otherwise any .venv will do.
ifneq ($(filter command environment,$(firstword $(origin PYTHON))),)
READY := $(STAMP)-$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
ifneq ($(shell .venv/bin/python -c 'print(1)' 2>/dev/null),1)
.PHONY: $(READY)
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run lab test check html pdf bench update clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv from requirements.lock; the other commands do it when needed

run: $(READY) ## run all notebooks (quick, embedded data) into build/run, with an offline HTML supplement
	@status=0; $(ENGINE) run --out build/run || status=$$?; \
	$(ENGINE) render --source build/run --out build/run/html || status=$$?; \
	echo; echo "figures and results  build/run/<notebook>/"; \
	echo "executed notebooks   build/run/*.ipynb"; \
	echo "supplement           build/run/html/index.html"; \
	exit $$status

lab: $(READY) ## open the notebooks in JupyterLab
	$(ENGINE).notebook.lab

test: $(READY) ## unit tests, hygiene, and every notebook against its stored outputs
	$(ENGINE) test

check: $(READY) ## lint, format, types, import order, and the notebooks as they are stored
	$(BIN)python -m ruff check .
	$(BIN)python -m ruff format --check .
	$(BIN)python -m mypy
	$(BIN)lint-imports
	$(BIN)python -m nbutils.notebook.hygiene

html: $(READY) ## the committed notebooks as offline HTML, into build/html
	$(ENGINE) render --out build/html

pdf: $(READY) ## the committed notebooks as PDF beside HTML, into build/pdf
	$(ENGINE) render --pdf --out build/pdf

bench: $(READY) ## measure the speed and memory ratios
	$(BIN)python tests/benchmarks

update: $(READY) ## run the notebooks again, store their outputs, print the claims that changed
	$(ENGINE) update
	$(BIN)python -m nbutils.notebook.readme

clean: ## remove build/ and caches; .venv stays
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache nbutils.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

ifdef READY
# The interpreter may be the one in an activated .venv: `--clear` replaces that in place, `rm` would saw it off.
$(READY):
	@fail() { echo "setup: $$*" >&2; exit 1; }; \
	command -v "$(PYTHON)" >/dev/null \
	|| fail "found no '$(PYTHON)'; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; \
	version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
	|| fail "'$(PYTHON)' does not start"; \
	case $$version in [0-2].* | 3.[0-9] | 3.10) \
		fail "found Python $$version at '$(PYTHON)', need 3.11 or newer: make PYTHON=/path/to/python3";; \
	esac; \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null \
	|| fail "'$(PYTHON)' has no venv module; install it (Debian and Ubuntu: apt install python3-venv)"; \
	free=$$({ df -Pk . | awk 'NR == 2 { print $$4 }'; [ ! -d .venv ] || du -sk .venv; } \
		| awk '{ kb += $$1 } END { print int(kb / 1000000) }'); \
	[ "$$free" -ge "$(MIN_DISK_GB)" ] \
	|| fail "$$free GB free on this disk, need about $(MIN_DISK_GB); to try all the same: make MIN_DISK_GB=0"; \
	echo "setup: installing into .venv, once; with GPU support (Linux) it downloads 3 GB and takes 6 GB"; \
	"$(PYTHON)" -m venv --clear .venv || fail "could not make .venv with '$(PYTHON)'"; \
	.venv/bin/python -m pip install -q --disable-pip-version-check '$(UV)' \
	|| fail "could not install uv into .venv"; \
	set -- .venv/bin/uv pip install --python .venv/bin/python; \
	[ -t 2 ] || set -- "$$@" -q; \
	"$$@" --require-hashes -r requirements.lock || fail "could not install requirements.lock"; \
	"$$@" --no-deps --no-build-isolation -e . || fail "could not install this project"; \
	touch "$(STAMP)" "$(STAMP)-$$version"
endif
