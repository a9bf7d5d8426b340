"""The product of a training: a tokenizer that turns images or recordings into indices and back."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from vpvae_jax.config import schema
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.runtime.errors import CheckpointError, ConfigError, DataError
from vpvae_jax.runtime.files import sha256

_WEIGHTS = "weights.safetensors"
_DESCRIPTION = "tokenizer.json"


def encode_examples(
    network: Autoencoder,
    quantizer: Quantizer,
    to_signal: Callable[[jax.Array], jax.Array],
    params: Any,
    examples: jax.Array,
) -> jax.Array:
    """Latents as the decoder sees them without quantization, `(n, ..., d)`, of a batch in stored form."""
    z = network.apply({"params": params}, to_signal(examples), method="encode")
    return quantizer.project(z.reshape(-1, quantizer.input_dim)).reshape(*z.shape[:-1], quantizer.latent_dim)


class Tokenizer:
    """Network, codebook and the config of their training.

    An example is an image, uint8 `(h, w, 3)` with sides that are multiples of the stride, whose tokens are
    `(h / stride, w / stride)`; or a recording, float32 `(samples,)` at 16 kHz of any length, whose tokens are
    `(ceil(samples / stride),)`. A recording goes through the network in windows that overlap, `model.window`
    samples long, `eval.batch_size` at a time: memory is bounded whatever its length.

    Args:
        experiment: the run; its network and its quantizer of `codebook.num_codes` codes are used.
        params: of the network.
        codebook: as the quantizer's `fit` made it.
        step: number of updates that the parameters have seen.

    Attributes:
        config: of the training.
        modality: what it works on, bound to its settings.
        codebook_size: number of codes.
        stride: pixels of a side or samples that become one token.
        step: number of updates the parameters have seen.
    """

    def __init__(self, experiment: Experiment, params: Any, codebook: Any, step: int):
        quantizer, network = experiment.token_quantizer, experiment.network
        self.config, self.modality, self.step = experiment.config, experiment.modality, step
        self.codebook_size = quantizer.codebook_size
        self.stride = self.modality.stride
        # Whole on one device of this process, wherever they were made.
        self._weights = jax.device_put(jax.tree.map(np.asarray, {"network": params, "codebook": codebook}))

        def to_latents(weights, examples):
            return encode_examples(network, quantizer, self.modality.to_signal, weights["network"], examples)

        def to_examples(weights, z):
            return self.modality.to_stored(network.apply({"params": weights["network"]}, z, method="decode"))

        def to_indices(weights, z):
            return quantizer.encode(weights["codebook"], z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])

        def to_codes(weights, indices):
            z_q = quantizer.decode(weights["codebook"], indices.reshape(-1))
            return z_q.reshape(*indices.shape, quantizer.latent_dim)

        self._to_latents, self._to_examples = jax.jit(to_latents), jax.jit(to_examples)
        self._to_indices, self._to_codes = jax.jit(to_indices), jax.jit(to_codes)

    def latents(self, examples: np.ndarray | jax.Array) -> jax.Array:
        """Latents as the decoder sees them without quantization, `(n, ..., d)` float32, of `(n, ...)` examples."""
        examples = examples if isinstance(examples, jax.Array) else np.asarray(examples)
        self.modality.check_examples(examples)
        encode = functools.partial(self._to_latents, self._weights)
        return jax.device_put(self.modality.encode(encode, examples))

    def encode(self, examples: np.ndarray | jax.Array) -> jax.Array:
        """Tokens of examples.

        Args:
            examples: `(n, h, w, 3)` uint8, or `(n, samples)` float32.

        Returns:
            `(n, h / stride, w / stride)` or `(n, ceil(samples / stride))` int32 indices in 0..codebook_size - 1.

        Raises:
            DataError: another type or shape, samples that are not finite.
        """
        return self.encode_latents(self.latents(examples))

    def encode_latents(self, z: jax.Array) -> jax.Array:
        """Tokens of latents, `(n, ..., d)` to `(n, ...)` int32."""
        to_indices = functools.partial(self._to_indices, self._weights)
        return jax.device_put(self.modality.map_tokens(to_indices, z))

    def decode(self, indices: np.ndarray | jax.Array) -> jax.Array:
        """Examples of tokens.

        Args:
            indices: `(n, rows, columns)` or `(n, tokens)` whole numbers in 0..codebook_size - 1.

        Returns:
            `(n, rows * stride, columns * stride, 3)` uint8, or `(n, tokens * stride)` float32 in [-1, 1]: cut off what
            is longer than the recording was.

        Raises:
            DataError: indices of codes that do not exist, or not a batch of grids of whole numbers.
        """
        indices = np.asarray(indices)
        axes = self.modality.token_axes
        if indices.ndim != 1 + axes or not indices.size or not np.issubdtype(indices.dtype, np.integer):
            shape = "(n, height, width)" if axes == 2 else "(n, tokens)"
            raise DataError(f"indices are {indices.dtype} {indices.shape}: expected whole numbers {shape}")
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest < 0 or highest >= self.codebook_size:
            raise DataError(f"indices run from {lowest} to {highest} but codes are 0..{self.codebook_size - 1}")
        to_codes = functools.partial(self._to_codes, self._weights)
        return self.decode_latents(self.modality.map_tokens(to_codes, indices.astype(np.int32)))

    def decode_latents(self, z: jax.Array) -> jax.Array:
        """Examples of latents that were not quantized, `(n, ..., d)`; see `decode`."""
        decode = functools.partial(self._to_examples, self._weights)
        return jax.device_put(self.modality.decode(decode, z))

    def save(self, directory: pathlib.Path | str) -> None:
        """Write `weights.safetensors` and `tokenizer.json`; an older directory is replaced once both are written."""
        directory = pathlib.Path(directory)
        temporary = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        flat = flax.traverse_util.flatten_dict(self._weights, sep="/")
        arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
        try:
            safetensors.numpy.save_file(arrays, temporary / _WEIGHTS)
        except safetensors.SafetensorError as error:
            raise OSError(f"{temporary / _WEIGHTS} cannot be written ({error})") from error
        description = {
            "step": self.step,
            "codebook_size": self.codebook_size,
            "weights_sha256": sha256(temporary / _WEIGHTS),
            "config": self.config.to_dict(),
        }
        (temporary / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        previous = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(previous, ignore_errors=True)
        if directory.exists():
            os.replace(directory, previous)
        os.replace(temporary, directory)
        shutil.rmtree(previous, ignore_errors=True)

    @classmethod
    def load(cls, directory: pathlib.Path | str) -> Tokenizer:
        """Read what `save` wrote; nothing in the files is executed.

        Raises:
            CheckpointError: no tokenizer there, or a damaged one.
        """
        directory = pathlib.Path(directory)
        if not (directory / _DESCRIPTION).exists():
            raise CheckpointError(f"{directory} holds no tokenizer: fit a codebook first (--mode=fit_codebook)")
        try:
            description = json.loads((directory / _DESCRIPTION).read_text())
            if description.get("weights_sha256", digest := sha256(directory / _WEIGHTS)) != digest:
                raise ValueError(f"{_WEIGHTS} has changed since it was written")
            flat = safetensors.numpy.load_file(directory / _WEIGHTS)
            weights = flax.traverse_util.unflatten_dict(flat, sep="/")
            experiment = Experiment(schema.from_dict(description["config"]), is_training=False)
            return cls(experiment, weights["network"], weights["codebook"], description["step"])
        except ConfigError as error:
            raise CheckpointError(f"the tokenizer in {directory} cannot be used: {error}") from error
        except Exception as error:  # of safetensors, of JSON, of what the config is taken for
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"the tokenizer in {directory} is damaged ({reason}): fit it again (--mode=fit_codebook)"
            ) from error
