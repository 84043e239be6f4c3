# make pair     train the demo's arms on real text and show who won      (SEEDS=3 for an interval; ARGS=--config.KEY=VALUE; resumes, skips what is done)
# make reproduce  the paper's tables beside ours, on the runs that make pair trained: one page
# make test     every test, warnings are errors                          (ARGS="-k product" for some of them)
# make check    for every edit, under two minutes: lint, types, the rooms, and the tests that neither train nor compile much
# make lint     ruff
# make types    mypy, over the public names and what they are used for
# make docs     the documentation as a site in site/, which opens from the disk
# make setup    the .venv that all of the above use; skipped while nothing it was made from changed
# make reference  adds the paper author's package with PyTorch, for the tests and timings against it; skipped when done
# make accelerator  what to run first on a new GPU or TPU     (ARGS="--data=texts/*.jsonl.xz --minutes=8", or ARGS=--rehearse)
# make tpu      adds the TPU compiler, for scripts/compile_for.py and its tests; skipped when done
# make gpu      adds the GPU compiler, for the same: a download of 0.65 GB, most of it cuDNN; skipped when done
# make sky      adds SkyPilot in an environment of its own, for the tests of launch/; skipped when done

SEEDS ?= 1
RUNS ?= runs/demo
ARGS ?=
SITE ?= site
# What `make check` runs: tests that need no training process, no browser and little of XLA's compiler.
QUICK := tests/layout_test.py tests/public_names_test.py tests/schema/keys_test.py tests/schema/resolution_test.py tests/run \
	tests/tokenization tests/report tests/paper tests/data/rows_test.py tests/embedding/codec_test.py tests/embedding/bags_test.py \
	tests/runtime/cli_test.py tests/runtime/printing_test.py tests/model/accounting_test.py
# The first of these that is a Python we support; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
# VENV=.venv-3.13 PYTHON=python3.13 makes another beside it.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
REFERENCE := $(VENV)/reference
TPU := $(VENV)/tpu/ready
GPU := $(VENV)/gpu/ready
SKY := $(VENV)/sky/ready

.PHONY: pair reproduce accelerator test check quick lint types docs setup reference tpu gpu sky clean

pair: setup
	@$(BIN)/python scripts/sweep.py --config=configs/demo.py --out=$(RUNS) --seeds=$(SEEDS) $(ARGS)
	@$(BIN)/python scripts/token_losses.py $(RUNS)
	@$(BIN)/python scripts/compare.py $(RUNS)
	@$(BIN)/python scripts/report.py $(RUNS) --out=$(RUNS)/report.html

reproduce: setup
	@$(BIN)/python scripts/report.py $(RUNS) --paper --out=$(RUNS)/paper.html

accelerator: setup
	@$(BIN)/python scripts/accelerator.py $(ARGS)

test: setup
	@$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(ARGS)

check: lint types quick

quick: setup
	@$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder -m "not slow" --durations=0 \
		--durations-min=5 --ignore=tests/report/pages_in_browser_test.py $(QUICK)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

# Not with --quiet, which turns --strict off.  The variable silences mkdocs-material's notice of its successor.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir=$(SITE)
	@echo "open $(SITE)/index.html"

setup: $(READY)

# uv installs in seconds what pip takes minutes for.  It is told to use the Python at hand and the system's certificates;
# where it cannot reach an index that pip is configured for, pip does the work.
REQUIRED := --editable .[train,dev]
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; make $(MAKECMDGOALS) PYTHON=/path/to/one" >&2; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(REQUIRED) \
		|| { echo "uv could not; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet $(REQUIRED); }
	@touch $@

reference: $(REFERENCE)

# The author's package declares transformers and never imports it, so it comes without its dependencies and nothing above
# moves to suit them; the second line adds what torch itself needs.  pip, as a CPU build of torch is most often pip's to find.
$(REFERENCE): $(READY) requirements-reference.txt
	@echo "adding the author's package and PyTorch to $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-reference.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch
	@touch $@

JAX_INSTALLED := $(BIN)/python -c "from importlib import metadata; print('jax==' + metadata.version('jax'))"

tpu: $(TPU)

# Beside the packages of .venv and not among them: there, each JAX process on a machine without a TPU loads libtpu and
# writes its complaints to stderr.  The version is the one that goes with the jax that is installed, as in [tpu].
TPU_JAX := jax[tpu]
$(TPU): $(READY)
	@echo "adding the TPU compiler to $(@D) ..."
	@rm -rf $(@D)
	@mkdir $(@D)
	@$(JAX_INSTALLED) > $(@D)/jax.txt
	@{ echo "$(TPU_JAX)" | UV_SYSTEM_CERTS=1 $(BIN)/uv pip compile --quiet --no-header --no-annotate --python $(BIN)/python \
			--constraint $(@D)/jax.txt --output-file $(@D)/all.txt - \
		&& grep '^libtpu==' $(@D)/all.txt > $(@D)/libtpu.txt \
		&& UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) --no-deps \
			-r $(@D)/libtpu.txt; } \
		|| { echo "uv could not; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet \
			--disable-pip-version-check --target $(@D) --constraint $(@D)/jax.txt "$(TPU_JAX)"; }
	@touch $@

gpu: $(GPU)

# Beside them too: on a machine without a GPU each JAX process would print a traceback.  Compiling needs no more of CUDA
# than these packages, so they come without what they depend on.
$(GPU): $(READY) requirements-gpu.txt
	@echo "adding the GPU compiler to $(@D) ..."
	@rm -rf $(@D)
	@mkdir $(@D)
	@$(JAX_INSTALLED) | sed 's/^jax/jax-cuda13-plugin/p; s/^jax-cuda13-plugin/jax-cuda13-pjrt/' > $(@D)/jax.txt
	@UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) --no-deps \
			--constraint $(@D)/jax.txt -r requirements-gpu.txt \
		|| { echo "uv could not; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet \
			--disable-pip-version-check --target $(@D) --no-deps --constraint $(@D)/jax.txt -r requirements-gpu.txt; }
	@touch $@

sky: $(SKY)

# It needs versions of its own of much that .venv has.
$(SKY): $(READY) requirements-sky.txt
	@echo "adding SkyPilot to $(@D) ..."
	@$(BIN)/python -m venv --clear $(@D)
	@UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r requirements-sky.txt \
		|| { echo "uv could not; installing with pip, which takes minutes"; $(@D)/bin/python -m pip install --quiet \
			--disable-pip-version-check -r requirements-sky.txt; }
	@touch $@

clean:
	rm -rf $(VENV) $(SITE) build *.egg-info
