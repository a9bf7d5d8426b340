"""The product of a training: a tokenizer that turns images or recordings into indices and back."""

from __future__ import annotations

import copy
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vpvae_jax.config import schema
from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.runtime.errors import CheckpointError, ConfigError, DataError
from vpvae_jax.runtime.shapes import next_size
from vpvae_jax.tokenizer.storage import damaged, read, write

_MAX_TOKENS = 65_536  # quantized at a time


def encode_examples(
    network: Autoencoder,
    quantizer: Quantizer,
    to_signal: Callable[[jax.Array], jax.Array],
    params: Any,
    examples: jax.Array,
    *size: jax.Array,
) -> jax.Array:
    """Latents as the decoder sees them without quantization, `(n, ..., d)`, of a batch in stored form.

    The `size` is that of padded images, see `models.vqgan.VQGANEncoder`.
    """
    z = network.apply({"params": params}, to_signal(examples), *size, method="encode")
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

        def to_latents(weights, examples, *size):
            return encode_examples(network, quantizer, self.modality.to_signal, weights["network"], examples, *size)

        def to_examples(weights, z, *size):
            return self.modality.to_stored(network.apply({"params": weights["network"]}, z, *size, method="decode"))

        def to_indices(weights, z):
            return quantizer.encode(weights["codebook"], z)

        def to_codes(weights, indices):
            return quantizer.decode(weights["codebook"], indices)

        self._to_latents, self._to_examples = jax.jit(to_latents), jax.jit(to_examples)
        self._to_indices, self._to_codes = jax.jit(to_indices), jax.jit(to_codes)

    def with_weights(self, params: Any, codebook: Any, step: int) -> Tokenizer:
        """The same tokenizer with other weights of the same shapes: nothing is compiled again."""
        other = copy.copy(self)
        other._weights = jax.device_put(jax.tree.map(np.asarray, {"network": params, "codebook": codebook}))
        other.step = step
        return other

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

    def encode_latents(self, z: np.ndarray | jax.Array) -> jax.Array:
        """Tokens of latents, `(n, ..., d)` to `(n, ...)` int32."""
        indices = _in_pieces(functools.partial(self._to_indices, self._weights), z.reshape(-1, z.shape[-1]))
        return jax.device_put(indices.reshape(z.shape[:-1]))

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
            raise DataError(f"indices are {indices.dtype} {indices.shape}: expected a batch of whole numbers {shape}")
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest < 0 or highest >= self.codebook_size:
            raise DataError(f"indices run from {lowest} to {highest} but codes are 0..{self.codebook_size - 1}")
        codes = _in_pieces(functools.partial(self._to_codes, self._weights), indices.astype(np.int32).ravel())
        return self.decode_latents(codes.reshape(*indices.shape, -1))

    def decode_latents(self, z: np.ndarray | jax.Array) -> jax.Array:
        """Examples of latents that were not quantized, `(n, ..., d)`; see `decode`."""
        decode = functools.partial(self._to_examples, self._weights)
        return jax.device_put(self.modality.decode(decode, z))

    def save(self, directory: pathlib.Path | str) -> None:
        """Write `weights.safetensors`, which `load` reads, and `tokenizer.json`, a description for people.

        At any moment the directory holds the old tokenizer or the new one.

        Args:
            directory: missing, empty, or with nothing but a tokenizer, which is replaced; `~` is the home directory.

        Raises:
            CheckpointError: the directory holds something else.
        """
        about = {"step": self.step, "codebook_size": self.codebook_size, "config": self.config.to_dict()}
        write(_path(directory), self.arrays(), about)

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and codebook as they are stored, by name: `network/encoder/...`, `codebook`."""
        flat = flax.traverse_util.flatten_dict(self._weights, sep="/")
        return {name: np.asarray(array) for name, array in flat.items()}

    @classmethod
    def load(cls, directory: pathlib.Path | str) -> Tokenizer:
        """Read what `save` wrote; nothing in the files is executed.

        Args:
            directory: of a tokenizer, or a work directory, for the current tokenizer of the run.

        Raises:
            CheckpointError: no tokenizer there, a damaged one, or one whose parts do not fit together.
        """
        directory = layout.tokenizer_of(_path(directory))
        arrays, about = read(directory)
        try:
            experiment = Experiment(schema.from_dict(about["config"]), is_training=False)
            step = about["step"]
            if type(step) is not int or step < 0:
                raise ConfigError(f"step={step!r}: expected a number of updates")
            _check_arrays(experiment, arrays)
        except ConfigError as error:
            raise CheckpointError(f"the tokenizer in {directory} cannot be used: {error}") from error
        except (KeyError, TypeError) as error:
            raise damaged(directory, f"its description lacks {error}") from error
        weights = flax.traverse_util.unflatten_dict(arrays, sep="/")
        return cls(experiment, weights["network"], weights["codebook"], step)


def _in_pieces(function: Callable, tokens: Any) -> Any:
    """A function of each token by itself, `(n, ...)` to `(n, ...)`, in pieces of few sizes."""
    if isinstance(tokens, jax.core.Tracer):
        return function(tokens)
    pieces = []
    for first in range(0, max(1, len(tokens)), _MAX_TOKENS):
        piece = tokens[first : first + _MAX_TOKENS]
        filled = np.pad(np.asarray(piece), [(0, next_size(len(piece)) - len(piece)), *[(0, 0)] * (piece.ndim - 1)])
        pieces.append(np.asarray(function(filled))[: len(piece)])
    return np.concatenate(pieces)


def _check_arrays(experiment: Experiment, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ConfigError unless the arrays are those of the network and of a codebook, and all numbers are finite."""
    quantizer = experiment.token_quantizer
    codebook = jax.ShapeDtypeStruct((quantizer.codebook_size, quantizer.latent_dim), jnp.float32)
    tree = {"network": experiment.abstract_params(), "codebook": codebook}
    expected = flax.traverse_util.flatten_dict(tree, sep="/")
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in expected:
            raise ConfigError(f"{name} is no part of it: expected only the arrays of its network and its codebook")
        wanted = f"{expected[name].dtype}{expected[name].shape}"
        found = f"{arrays[name].dtype}{arrays[name].shape}" if name in arrays else "nothing"
        if found != wanted:
            raise ConfigError(f"{name} is {found}: expected {wanted} by its config")
        if not np.isfinite(arrays[name]).all():
            raise ConfigError(f"{name} has {(~np.isfinite(arrays[name])).sum()} values that are not finite")


def _path(directory: pathlib.Path | str) -> pathlib.Path:
    return pathlib.Path(directory).expanduser()
