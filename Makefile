# make pair         trains the demo's arms on real text and compares them; make
#                   without a target does the same.  It resumes, and skips
#                   finished runs.  SEEDS=3 adds intervals;
#                   ARGS=--config.KEY=VALUE sets a key in every run
# make reproduce    writes one page with the paper's tables beside ours, from
#                   the runs of make pair
# make test         runs every test that needs no more than .venv; warnings are
#                   errors (ARGS="-k product" runs some of them)
# make extras       runs the others: they need what reference, tpu, gpu, sky,
#                   engines and trackers add, which it makes first, a browser,
#                   SLURM, g++ or a new environment; one that is missing fails
# make faults       disturbs runs and data in all ways and checks that no number
#                   changes; ARGS=--faults=5 tries five times as many cases
# make mutants      changes the core's code in small ways and counts the changes
#                   that the tests catch; hours, and resumes (ARGS=--minutes=30)
# make check        for every edit, under two minutes: lint, types, and the
#                   quick tests, which neither train nor compile much
# make lint         runs ruff
# make types        runs mypy on the public names and examples of their use
# make quick        runs the quick tests
# make docs         builds the documentation as a site in site/, which opens
#                   from the disk
# make setup        makes .venv, which all targets use; skipped if up to date
# make reference    adds the paper author's package with PyTorch, for
#                   comparisons; skipped when done
# make accelerator  checks and measures a new GPU or TPU
#                   (ARGS="--data=texts/*.jsonl.xz --minutes=8";
#                   ARGS=--rehearse tries all of it on a CPU)
# make tpu          adds the TPU compiler, for scripts/compile_for.py and its
#                   tests; skipped when done
# make gpu          adds the GPU compiler, for the same; downloads 0.65 GB,
#                   mostly cuDNN; skipped when done
# make sky          adds SkyPilot, in its own environment, for the tests of
#                   launch/; skipped when done
# make engines      adds transformers, CTranslate2, ONNX Runtime, llama.cpp and
#                   lm-evaluation-harness, in an environment of their own, for
#                   the tests of exports; skipped when done
# make trackers     adds wandb and tensorboard beside .venv, for the test of what
#                   log.wandb and log.tensorboard write; skipped when done
# make clean        removes .venv, site/ and build files

SEEDS ?= 1
RUNS ?= runs/demo
ARGS ?=
SITE ?= site
# The tests of `make check`: no training process, no browser, little compilation by XLA.
QUICK := tests/layout_test.py tests/public_names_test.py tests/schema/keys_test.py tests/schema/resolution_test.py tests/run \
	tests/tokenization tests/report tests/paper tests/data/rows_test.py tests/embedding/codec_test.py tests/embedding/bags_test.py \
	tests/runtime/cli_test.py tests/runtime/printing_test.py tests/model/accounting_test.py
# The first supported Python of these; PYTHON=/path/to/python sets another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
# VENV=.venv-3.13 PYTHON=python3.13 makes a second environment.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
REFERENCE := $(VENV)/reference
TPU := $(VENV)/tpu/ready
GPU := $(VENV)/gpu/ready
SKY := $(VENV)/sky/ready
TRACKERS := $(VENV)/trackers/ready
MUTANTS := $(VENV)/mutants/ready
ENGINES := $(VENV)/engines/ready

.PHONY: pair reproduce accelerator test extras check quick lint types docs setup reference tpu gpu sky engines trackers faults mutants clean

pair: setup
	@$(BIN)/python scripts/sweep.py --config=configs/demo.py --out=$(RUNS) --seeds=$(SEEDS) $(ARGS)
	@$(BIN)/python scripts/token_losses.py $(RUNS)
	@$(BIN)/python scripts/compare.py $(RUNS)
	@$(BIN)/python scripts/report.py $(RUNS) --out=$(RUNS)/report.html

reproduce: setup
	@$(BIN)/python scripts/report.py $(RUNS) --paper --out=$(RUNS)/paper.html

accelerator: setup
	@$(BIN)/python scripts/accelerator.py $(ARGS)

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test: setup
	@$(PYTEST) -m "not extras" $(ARGS)

extras: reference tpu gpu sky engines trackers
	@KRONECKER_REQUIRE_EXTRAS=1 $(PYTEST) -m extras $(ARGS)

faults: setup
	@$(PYTEST) tests/faults $(ARGS)

mutants: $(MUTANTS)
	@nice -n 10 $(VENV)/mutants/bin/python tests/mutants.py $(ARGS)

check: lint types quick

quick: setup
	@$(PYTEST) -m "not slow and not extras" --durations=0 --durations-min=5 $(QUICK)

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

# uv takes seconds where pip takes minutes.  It uses $(PYTHON) and the system's certificates.  If it cannot reach an index
# that pip is configured for, pip installs.
REQUIRED := --editable .[train,dev]
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; make $(MAKECMDGOALS) PYTHON=/path/to/one" >&2; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(REQUIRED) \
		|| { echo "uv failed; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet $(REQUIRED); }
	@touch $@

reference: $(REFERENCE)

# The author's package requires transformers but never imports it, so it is installed without dependencies, which keeps
# our versions; the second line installs torch's own.  pip, because its configuration usually has the index of CPU builds.
$(REFERENCE): $(READY) requirements-reference.txt
	@echo "adding the author's package and PyTorch to $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-reference.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch
	@touch $@

JAX_INSTALLED := $(BIN)/python -c "from importlib import metadata; print('jax==' + metadata.version('jax'))"

tpu: $(TPU)

# In its own folder: in .venv, every JAX process on a machine without a TPU would load libtpu and print its warnings.  The
# version is the one for the installed jax, as in [tpu].
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
		|| { echo "uv failed; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet \
			--disable-pip-version-check --target $(@D) --constraint $(@D)/jax.txt "$(TPU_JAX)"; }
	@touch $@

gpu: $(GPU)

# In its own folder: in .venv, every JAX process on a machine without a GPU would print a traceback.  Compiling needs no
# other CUDA packages, so these are installed without dependencies.
$(GPU): $(READY) requirements-gpu.txt
	@echo "adding the GPU compiler to $(@D) ..."
	@rm -rf $(@D)
	@mkdir $(@D)
	@$(JAX_INSTALLED) | sed 's/^jax/jax-cuda13-plugin/p; s/^jax-cuda13-plugin/jax-cuda13-pjrt/' > $(@D)/jax.txt
	@UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) --no-deps \
			--constraint $(@D)/jax.txt -r requirements-gpu.txt \
		|| { echo "uv failed; installing with pip, which takes minutes"; $(BIN)/python -m pip install --quiet \
			--disable-pip-version-check --target $(@D) --no-deps --constraint $(@D)/jax.txt -r requirements-gpu.txt; }
	@touch $@

sky: $(SKY)

engines: $(ENGINES)

# Each in its own environment: SkyPilot and the engines need other versions of packages in .venv, and cosmic-ray only starts
# its tests.  torch by pip, as for $(REFERENCE).
$(SKY) $(MUTANTS) $(ENGINES): $(VENV)/%/ready: $(READY) requirements-%.txt
	@echo "adding what requirements-$*.txt lists to $(@D) ..."
	@$(BIN)/python -m venv --clear $(@D)
	@! torch=$$(grep ^torch requirements-$*.txt) || $(@D)/bin/python -m pip install --quiet --disable-pip-version-check $$torch
	@UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r requirements-$*.txt \
		|| { echo "uv failed; installing with pip, which takes minutes"; $(@D)/bin/python -m pip install --quiet \
			--disable-pip-version-check -r requirements-$*.txt; }
	@touch $@

trackers: $(TRACKERS)

# In their own folder: they are large, and a test is about a machine without wandb.  tensorboard without dependencies, as
# its reader of events needs none.
$(TRACKERS): $(READY)
	@echo "adding wandb and tensorboard to $(@D) ..."
	@UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) "wandb>=0.22" \
		&& UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) --no-deps "tensorboard>=2.19" \
		|| { echo "uv failed; installing with pip, which takes minutes"; \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(@D) "wandb>=0.22"; \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(@D) --no-deps "tensorboard>=2.19"; }
	@touch $@

clean:
	rm -rf $(VENV) $(SITE) build *.egg-info
