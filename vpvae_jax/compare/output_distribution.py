"""What scalar quantizers feed the decoder in training if latents are uniform: the paper's figure for L = 4."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from vpvae_jax.quantizers import Quantizer, fsp, fsq

_NUM_LATENTS = 400_000
_NUM_BINS = 120
_TOLERANCE = 1e-5  # between a code and a latent that is on it, by rounding
_REACH = 12.0  # largest latent before projection: beyond it every projection is flat


def uniform_outputs(quantizer: Quantizer, key: jax.Array, num_latents: int = _NUM_LATENTS) -> np.ndarray:
    """Draw scalar latents that are uniform once projected and return what `train` gives the decoder for them.

    Args:
        quantizer: of one dimension, with a `project` that rises and is bounded.
        key: random key.
        num_latents: number of draws.

    Returns:
        `(num_latents,)` float32.
    """
    grid = jnp.linspace(-_REACH, _REACH, 200_001)
    projected = quantizer.project(grid[:, None])[:, 0]
    draw_key, train_key = jax.random.split(key)
    wanted = jax.random.uniform(draw_key, (num_latents,), minval=projected[0], maxval=projected[-1])
    z = jnp.interp(wanted, projected, grid)
    params, state = quantizer.init(key)
    return np.asarray(quantizer.train(params, state, z[:, None], train_key)[0][:, 0])


def draw_output_distribution(num_levels: int = 4, seed: int = 0) -> matplotlib.figure.Figure:
    """Draw a histogram for each method; quantized latents fall on few points, drawn as lines of their share."""
    methods = {
        "FSQ": fsq((num_levels,)),
        "FSQ with noise": fsq((num_levels,), noise_rate=0.5),
        "symmetric FSQ with noise": fsq((num_levels,), symmetric=True, noise_rate=0.5),
        "FSP": fsp((num_levels,)),
    }
    key = jax.random.key(seed)
    plot = matplotlib.figure.Figure(figsize=(12, 6), layout="constrained")
    for axes, (title, quantizer) in zip(plot.subplots(2, 2).flat, methods.items(), strict=True):
        outputs = uniform_outputs(quantizer, key)
        codebook = quantizer.fit({}, {}, jnp.zeros((0, 1)), key)
        codes = np.asarray(quantizer.decode(codebook, jnp.arange(num_levels)))[:, 0]
        distance = np.abs(outputs[:, None] - codes)
        is_on_code = distance.min(axis=1) < _TOLERANCE
        edges = np.linspace(outputs.min(), outputs.max(), _NUM_BINS + 1)
        density = np.histogram(outputs[~is_on_code], edges)[0] / len(outputs) / np.diff(edges)
        axes.stairs(density, edges, fill=True, color="tab:blue")
        axes.set(title=title, xlabel="what the decoder sees", ylabel="density off the codes (blue)", ylim=(0, 0.5))
        twin = axes.twinx()
        twin.vlines(codes, 0, (distance < _TOLERANCE).mean(axis=0), color="tab:red", linewidth=3)
        twin.set(ylim=(0, 0.5), ylabel="share on each code (red)")
    return plot
