# make demo    train, fit, evaluate on bundled photographs, about 5 minutes on 2 CPU cores
# make demo-audio    the same on recorded speech, about 7 minutes; DEMO_METHOD=fsp for another quantizer
# make test    the default test suite, in two processes
# make check   what CI runs of lint and types
# make bench   timings against peers into results/benchmarks, about 12 minutes on 2 CPU cores
VENV ?= .venv
PYTHON ?= python3
DEMO_DIR ?= runs/demo
DEMO_FLAGS ?=
DEMO_AUDIO_DIR ?= runs/demo-audio
DEMO_METHOD ?= vp
BIN := $(VENV)/bin

.PHONY: demo demo-audio test test-slow check bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m vpvae_jax.main --config=configs/photos.py --workdir=$(DEMO_DIR) $(DEMO_FLAGS)

demo-audio: $(VENV)/.installed-audio
	$(BIN)/python -m vpvae_jax.main --config=configs/speech.py:quantizer=$(DEMO_METHOD) --workdir=$(DEMO_AUDIO_DIR) $(DEMO_FLAGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

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
