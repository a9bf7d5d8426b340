"""Scores a few fixed examples while a run trains, so that one sees what it will be worth."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax.codebooks.usage import cvu
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.quantizers.base import fit_by_kmeans
from vpvae_jax.runtime import processes
from vpvae_jax.tokenizer import Tokenizer
from vpvae_jax.training.state import TrainState

_NUM_ITERATIONS = 10  # of k-means: CVU is within a few hundredths of that of the final fit
_SEED = 0


class Validation:
    """The first examples of the first split of `eval.splits`, of which each process has its share.

    Args:
        experiment: `eval.every`, `eval.num_watched` and `codebook.every` are used.
    """

    def __init__(self, experiment: Experiment):
        settings = experiment.config.eval
        self._experiment = experiment
        self._every, self._fit_every = settings.every, experiment.config.codebook.every
        self._examples: list[np.ndarray] = []
        self._tokenizer: Tokenizer | None = None
        self._replicate: Any = None
        if self._every:
            share = len(processes.this_process().share(settings.num_watched))
            items = experiment.examples(settings.splits[0]).items
            self._examples = [example[None] for _, example in itertools.islice(items, share)]

    def is_due(self, step: int) -> bool:
        """Whether to score after this step."""
        return bool(self._every) and step % self._every == 0

    def score(self, state: TrainState, step: int) -> dict[str, float]:
        """Means over the examples: the first metric without quantization; with a quick codebook also with it, and CVU.

        All processes of a run must call this.

        Args:
            state: after the step.
            step: as the state has it.

        Returns:
            `eval_psnr_db_continuous` (of speech `eval_stoi_continuous`), and on the steps of `codebook.every`
            `eval_psnr_db` and `eval_cvu`.
        """
        key = self._experiment.modality.metrics[0].key
        tokenizer, has_codebook = self._tokenizer_of(state, step)
        names = [f"eval_{key}_continuous", f"eval_{key}"] if has_codebook else [f"eval_{key}_continuous"]
        scores: dict[str, list[float]] = {name: [] for name in names}
        counts = np.zeros(tokenizer.codebook_size, np.int64)
        for example in self._examples:
            z = tokenizer.latents(example)
            reconstructions = {f"eval_{key}_continuous": tokenizer.decode_latents(z)}
            if has_codebook:
                indices = np.asarray(tokenizer.encode_latents(z))
                counts += np.bincount(indices.ravel(), minlength=len(counts))
                reconstructions[f"eval_{key}"] = tokenizer.decode(indices)
            for name, decoded in reconstructions.items():
                cut = np.asarray(decoded)[:, : example.shape[1]]
                scores[name] += self._experiment.modality.first_metric(cut, example)
        parts = processes.gather({"scores": scores, "counts": counts})
        found = {name: [score for part in parts for score in part["scores"][name]] for name in scores}
        values = {name: float(np.mean(each)) for name, each in found.items() if each}
        counts = np.sum([part["counts"] for part in parts], axis=0)
        return values | ({"eval_cvu": cvu(counts)} if counts.any() else {})

    def _tokenizer_of(self, state: TrainState, step: int) -> tuple[Tokenizer, bool]:
        """The tokenizer of a state, and whether its codebook was fitted."""
        if self._replicate is None:  # compiled once
            everywhere = NamedSharding(processes.data_mesh(), P())
            self._replicate = jax.jit(lambda tree: tree, out_shardings=everywhere)
        params = self._replicate(state.params if state.ema_params is None else state.ema_params)
        quantizer = self._experiment.quantizer
        codebook = None
        if self._fit_every and step % self._fit_every == 0:
            codebook = self._quick_codebook(params, state.quantizer_state)
        shown = jnp.zeros((quantizer.codebook_size, quantizer.latent_dim)) if codebook is None else codebook
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._experiment, params["network"], shown, step)
        self._tokenizer = self._tokenizer.with_weights(params["network"], shown, step)
        return self._tokenizer, codebook is not None

    def _quick_codebook(self, params: Any, quantizer_state: Any) -> jax.Array | None:
        """A codebook by few iterations; None where there are too few latents for one."""
        quantizer, key = self._experiment.quantizer, jax.random.key(_SEED)
        state = self._replicate(quantizer_state)
        own, state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), (params["quantizer"], state))
        if not quantizer.fitted_afterwards:
            return quantizer.fit(own, state, jnp.zeros((0, quantizer.latent_dim)), key)
        memory = getattr(state, "memory", None)
        if memory is None or len(memory.samples) < quantizer.codebook_size:
            return None
        return fit_by_kmeans(quantizer.codebook_size, _NUM_ITERATIONS)(own, state, memory.samples, key)
