"""Fit codebooks to a trained work directory, explicitly and after training."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.tokenizer import Tokenizer, encode_examples
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.loop import abstract_state
from vpvae_jax.training.sharding import state_shardings
from vpvae_jax.training.state import TrainState

_LOG = logging.getLogger(__name__)
_FIT_SALT = 1  # keeps the crops and draws of the fit apart from those of the training


def fit_codebook(experiment: Experiment, workdir: pathlib.Path, step: int | None = None) -> Tokenizer:
    """Fit a codebook to the network of a checkpoint; nothing is written.

    Args:
        experiment: of the training, with the `codebook` settings of this fit.
        workdir: of the checkpoints.
        step: which checkpoint; default the newest.

    Raises:
        UserError: no such checkpoint, no data, or fewer latents than codes.
    """
    return next(fit_codebooks([experiment], workdir, step))


def fit_codebooks(
    experiments: Sequence[Experiment], workdir: pathlib.Path, step: int | None = None
) -> Iterator[Tokenizer]:
    """Fit codebooks of several sizes to the same latents, which are encoded once; see `fit_codebook`.

    Args:
        experiments: at least one; they differ in `codebook.num_codes` alone.
        workdir: of the checkpoints.
        step: which checkpoint; default the newest.

    Yields:
        A tokenizer for each.
    """
    first = experiments[0]
    mesh = processes.data_mesh()
    with Checkpoints(workdir / layout.CHECKPOINTS) as checkpoints:
        shardings = state_shardings(abstract_state(first), mesh, shard_params=False)
        state = checkpoints.restore(abstract_state(first, shardings), step=step)
    latents = _latents(first, state, mesh)
    if not jnp.isfinite(latents).all():
        raise CheckpointError(
            f"step {int(state.step)} gives latents that are not finite: train again in a new --workdir"
        )
    for experiment in experiments:
        yield _fit(experiment, state, latents, mesh)


def _latents(experiment: Experiment, state: TrainState, mesh: jax.sharding.Mesh) -> jax.Array:
    """What a codebook is fitted to, `(n, d)`."""
    config, quantizer = experiment.config, experiment.quantizer
    if not quantizer.fitted_afterwards:  # its fit reads no latents
        return jnp.zeros((0, quantizer.latent_dim))
    if config.codebook.source == "memory":
        return state.quantizer_state.memory.samples
    everywhere, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P(processes.DATA_AXIS))
    encode = functools.partial(encode_examples, experiment.network, quantizer, experiment.modality.to_signal)
    jitted = jax.jit(encode, out_shardings=everywhere)
    params = _params(state)["network"]
    return _encode_training_set(lambda rows: jitted(params, processes.put_rows(rows, sharded)), experiment, mesh.size)


def _params(state: TrainState):
    return state.params if state.ema_params is None else state.ema_params


def _fit(experiment: Experiment, state: TrainState, latents: jax.Array, mesh: jax.sharding.Mesh) -> Tokenizer:
    quantizer, params = experiment.token_quantizer, _params(state)
    if mesh.size > 1 and len(latents):  # the devices share the search for the nearest code
        num_shared = len(latents) // mesh.size * mesh.size  # a few latents at the end are left out
        is_enough = num_shared >= quantizer.codebook_size
        kept = np.asarray(latents)[: num_shared if is_enough else None]
        placement = P(processes.DATA_AXIS) if is_enough else P()
        latents = processes.put_copy(kept, NamedSharding(mesh, placement))
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), _FIT_SALT)
    try:
        with jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext():
            codebook = quantizer.fit(params["quantizer"], state.quantizer_state, latents, key)
    except ValueError as error:
        if processes.lost_peer(error):
            raise
        raise ConfigError(str(error)) from error
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params["network"], codebook))):
        raise CheckpointError(
            f"step {int(state.step)} has parameters or codes that are not finite: train again in a new --workdir"
        )
    num_distinct = len(np.unique(quantizer.decode(codebook, jnp.arange(quantizer.codebook_size)), axis=0))
    if num_distinct < quantizer.codebook_size:
        _LOG.warning(
            "only %d of %d codes are distinct: the latents have collapsed to few points",
            num_distinct,
            quantizer.codebook_size,
        )
    return Tokenizer(experiment, params["network"], codebook, int(state.step))


def _encode_training_set(encode, experiment: Experiment, num_devices: int) -> jax.Array:
    """At most `codebook.max_latents` latents, as many from each example that is read.

    A set so small that one crop an example would not give enough is read several times, with other crops. A set with
    more examples than crops are needed is not read to its end.
    """
    config, tokens = experiment.config, experiment.modality.tokens
    num_examples = len(experiment.source(config.data.train_split))
    tokens_per_crop = tokens(config.codebook.crop)
    max_latents = config.codebook.max_latents
    num_crops = num_examples * math.ceil(max_latents / (num_examples * tokens_per_crop))
    tokens_kept = min(tokens_per_crop, math.ceil(max_latents / num_crops))
    batch_size = max(1, config.train.batch_size * tokens(config.data.crop) // tokens_per_crop)  # as in training
    batches = experiment.batches(
        config.data.train_split,
        batch_size=-(-batch_size // num_devices) * num_devices,
        crop=config.codebook.crop,
        seed=config.seed + _FIT_SALT,
    )
    rng = np.random.default_rng((config.seed, _FIT_SALT))
    latents, num_latents = [], 0
    bar = tqdm.tqdm(total=min(max_latents, num_crops * tokens_kept), unit="latent", unit_scale=True, desc="encoding")
    while num_latents < bar.total:
        z = np.asarray(encode(next(batches)))
        z = z.reshape(len(z), tokens_per_crop, -1)
        chosen = rng.permuted(np.tile(np.arange(tokens_per_crop), (len(z), 1)), axis=1)[:, :tokens_kept]
        latents.append(np.take_along_axis(z, chosen[:, :, None], axis=1).reshape(-1, z.shape[-1]))
        num_latents += len(latents[-1])
        bar.update(min(len(latents[-1]), bar.total - bar.n))
    bar.close()
    return jnp.asarray(np.concatenate(latents)[: bar.total])
