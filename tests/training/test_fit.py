"""The fit of a checkpoint that was never trained: what it reads, and what it makes."""

import grain
import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.training import fit
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.loop import new_state


def _checkpointed(run, workdir, change=lambda state: state):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(change(new_state(run)), iter(grain.MapDataset.range(9).to_iter_dataset()))


@pytest.mark.system
def test_a_method_whose_fit_ignores_the_latents_reads_no_data(tmp_path, monkeypatch):
    """The data set does not even exist."""
    run = tiny.experiment(tmp_path / "nothing", "quantizer=fsp,codebook_size=16", data__name="no/such_data")
    _checkpointed(run, tmp_path)
    tokenizer = fit.fit_codebook(run, tmp_path)
    assert (tokenizer.codebook_size, tokenizer.step) == (16, 0)


@pytest.mark.system
def test_latents_that_are_not_finite_are_refused(tmp_path):
    run = tiny.experiment("", codebook__source="memory")

    def spoil(state):
        memory = state.quantizer_state.memory
        spoilt = memory._replace(samples=memory.samples.at[3, 1].set(jnp.nan))
        return state._replace(quantizer_state=state.quantizer_state._replace(memory=spoilt))

    _checkpointed(run, tmp_path, spoil)
    with pytest.raises(CheckpointError, match="step 0 gives latents that are not finite: train again"):
        fit.fit_codebook(run, tmp_path)


def test_parameters_that_are_not_finite_are_refused_where_no_latents_are_read(tmp_path):
    run = tiny.experiment("", "quantizer=fsq,codebook_size=16")

    def spoil(state):
        leaves, tree = jax.tree.flatten(state.params["network"])
        return state._replace(params=state.params | {"network": tree.unflatten([leaves[0] * jnp.nan, *leaves[1:]])})

    _checkpointed(run, tmp_path, spoil)
    with pytest.raises(CheckpointError, match="step 0 has parameters or codes that are not finite: train again"):
        fit.fit_codebook(run, tmp_path)


@pytest.mark.system
def test_the_running_mean_of_the_parameters_becomes_the_tokenizer(tmp_path):
    run = tiny.experiment("", codebook__source="memory", train__ema_decay=0.9)
    _checkpointed(run, tmp_path, lambda state: state._replace(ema_params=jax.tree.map(jnp.zeros_like, state.params)))
    weights = fit.fit_codebook(run, tmp_path)._weights["network"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(weights))
