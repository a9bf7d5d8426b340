"""The protocol of a modality."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import ml_collections
import numpy as np

from vpvae_jax.scoring.base import Figure, Scorer, Shown

Config: TypeAlias = ml_collections.ConfigDict


class Loss(NamedTuple):
    """A reconstruction loss and what it needs to know."""

    params: Any  # of frozen networks, {} without any: an argument of the step, not a constant in it
    function: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
    """(params, reconstruction, signal) -> loss, its parts to log; float32 scalars"""


class Examples(NamedTuple):
    """What an evaluation goes through; of several processes, each its share."""

    items: Iterator[tuple[str, np.ndarray]]  # name and example as stored
    total: int  # records of the source, readable or not
    unreadable: Mapping[int, str]  # by index of the record, filled while `items` is gone through
    batch_size: int  # at a time; 1 where shapes differ


class Modality(NamedTuple):
    """A kind of signal, as the loop, the fit, the tokenizer and the evaluator see it.

    An example is what the data pipeline gives and the tokenizer takes: `stored` form. The network sees `signal` form.
    """

    name: str  # "image"
    unit: str  # what one example is called in figures and progress bars
    required: Mapping[str, str]  # keys of a config and what they must be: "positive" or "not negative"
    choices: Mapping[str, tuple[str, ...]]  # keys of a config and the words they may be
    reference: str  # config file that has all keys
    check_config: Callable[[Config], None]
    """Raises ConfigError for a value that cannot work."""
    stride: Callable[[Config], int]
    """Samples of an axis that become one token."""
    tokens: Callable[[Config, int], int]
    """(config, crop) -> tokens of a crop."""
    rate: Callable[[Config, int], float]
    """(config, number of codes) -> bits per `rate_unit`."""
    rate_unit: str
    build_network: Callable[..., Any]
    """(config, quantizer) -> Autoencoder."""
    build_loss: Callable[[Config], Loss]
    build_source: Callable[[Config, str], Any]
    """(config, split) -> records."""
    build_batches: Callable[..., Any]
    """(config, source, *, batch_size, crop, seed) -> endless iterator of batches in stored form."""
    check_data: Callable[[Config, Any, int], None]
    """(config, source, crop): raises DataError for what would else be found hours later."""
    batch_shape: Callable[[int, int], jax.ShapeDtypeStruct]
    """(batch size, crop) -> shape and type of a batch in stored form."""
    examples: Callable[[Config, Any], Examples]
    """(config, source) -> what an evaluation goes through."""
    scorer: Callable[[Config], Scorer]
    figures: Mapping[str, Figure]
    """What tables show of the results, by key, where they are among them; the first says how good a reconstruction is,
    and with `_continuous` at its name how good it is before quantization."""
    show: Callable[[pathlib.Path, list[Shown]], list[pathlib.Path]]
    """(directory, at least one example): writes pictures and sounds, returns their paths."""
    to_signal: Callable[[jax.Array], jax.Array]
    to_stored: Callable[[jax.Array], jax.Array]
    check_examples: Callable[[Any, int], None]
    """(examples, stride): raises DataError for a batch that cannot be tokenized."""
    token_axes: int  # axes of an example's tokens
    encode: Callable[..., Any]
    """(config, function, examples) -> latents; function takes batches of fixed shape where lengths vary."""
    decode: Callable[..., Any]
    """(config, function, latents) -> examples."""
    map_tokens: Callable[..., Any]
    """(config, function, tokens) -> what the function makes of each token, latent or index."""
