"""A short fault campaign; `python -m tests.reliability.faults` has 657 cases."""

import collections
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from tests.reliability import faults
from vpvae_jax.config import workdir as layout


@pytest.mark.reliability
def test_a_short_campaign_ends_well():
    """In a process of its own: it needs the flags of XLA that its runs have."""
    words = [sys.executable, "-m", "tests.reliability.faults", "--short"]
    done = subprocess.run(words, cwd=tiny.ROOT, env=os.environ.copy(), capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines, done.stderr[-2000:])
    counts = collections.Counter(line["fault"] for line in lines)
    assert counts["SIGKILL"] >= faults.SHORT.kills
    assert counts["damaged checkpoint"] == sum(number for _, number in faults.SHORT.damaged)
    assert {"SIGTERM", "loss is not finite", "corrupt records"} < counts.keys()


@pytest.fixture
def campaign(tmp_path):
    """A campaign whose undisturbed run is a stored tokenizer."""
    made = faults.Campaign.__new__(faults.Campaign)
    made.undisturbed = tmp_path / "undisturbed"
    _save(made.undisturbed, 1.0)
    return made


def _save(workdir, value):
    (workdir / layout.TOKENIZERS / "k16-step6").mkdir(parents=True)
    layout.mark_current(workdir, "k16-step6")
    safetensors.numpy.save_file({"w": np.full(3, value, np.float32)}, tiny.tokenizer(workdir) / "weights.safetensors")


@pytest.mark.parametrize(
    ("code", "said", "value", "expected"),
    [
        (0, "", 1.0, "same"),
        (0, "", np.nextafter(np.float32(1), np.float32(2)), "DIFFERENT"),
        (1, "error: no room", 1.0, "refused"),
        (1, "ValueError: what", 1.0, "CRASHED with 1"),
        (-11, "", 1.0, "CRASHED with -11"),
    ],
)
def test_how_a_run_ended(campaign, tmp_path, code, said, value, expected):
    _save(tmp_path / "run", value)
    assert campaign.outcome(tmp_path / "run", code, said) == expected
    assert (expected in faults.GOOD) == (expected in ("same", "refused"))


def test_a_refusal_with_a_damaged_checkpoint_is_not_a_good_end(campaign, tmp_path):
    (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True)  # without its manifest
    outcome = campaign.outcome(tmp_path / "run", 1, "error: no room")
    assert outcome not in faults.GOOD


def test_the_table_counts_what_ended_badly():
    lines = [{"fault": "SIGKILL", "what": "a step", "outcome": outcome} for outcome in ("same", "same", "DIFFERENT")]
    text = faults.table(lines)
    assert "| SIGKILL | same | 2 |" in text
    assert "3 cases, 1 of them lost" in text
