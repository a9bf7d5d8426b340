"""Whisper's encoder, frozen: features of waveforms for a perceptual loss, not for recognition.

Source: Radford et al. 2022 (arXiv 2212.04356).
"""

from __future__ import annotations

import importlib
import math
import os
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from vpvae_jax.perceptual.mel import mel_filters
from vpvae_jax.runtime.errors import ConfigError

SAMPLE_RATE = 16_000  # Hz, of the waveforms that the network was trained on
NUM_MELS = 80
NUM_FRAMES = 3000  # of log_mel, 10 ms each
_WINDOW = 400  # samples, 25 ms; also the length of the transform
_HOP = 160  # samples
_NUM_SAMPLES = NUM_FRAMES * _HOP  # 30 s
_MIN_POWER = 1e-10
_DECADES = 8.0  # of power that a clip keeps below its loudest band
_NORM_EPSILON = 1e-5
_LONGEST_PERIOD = 10_000.0  # of the sinusoids, in positions and units of 2 pi
_HEAD_WIDTH = 64  # in every published size

# Our names to those of the Hugging Face checkpoints.
_MODULES = {
    "attention_norm": "self_attn_layer_norm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp_in": "fc1",
    "mlp_out": "fc2",
    "norm": "layer_norm",
}
_PREFIXES = ("model.encoder.", "encoder.")
_FLOATS = ("F16", "BF16", "F32", "F64")
_FILE_NAME = "model.safetensors"
_REMEDY = "give a safetensors file of a Whisper model, or set loss.whisper_weight to 0 to train without the term"


def log_mel(waveforms: jax.Array) -> jax.Array:
    """The input of the encoder: log10 of the power in 80 mel bands, 100 frames a second, over 30 s.

    `(max(log10 max(mel, 1e-10), m - 8) + 4) / 4`, with m the largest log10 of the clip.

    Args:
        waveforms: `(n, samples)` in [-1, 1] at 16 kHz; shorter ones are padded with zeros to 30 s, longer ones are cut.

    Returns:
        `(n, 3000, 80)` float32. Gradients are finite everywhere; those of a silent clip are zero.

    Source: openai/whisper `whisper/audio.py`.
    """
    num, num_samples = waveforms.shape
    num_samples = min(num_samples, _NUM_SAMPLES)
    x = waveforms[:, :num_samples].astype(jnp.float32)
    x = jnp.pad(x, ((0, 0), (0, _NUM_SAMPLES - num_samples)))
    x = jnp.pad(x, ((0, 0), (_WINDOW // 2, _WINDOW // 2)), mode="reflect")
    # Frames that begin after the last sample are silent: they need no transform.
    num_heard = min(NUM_FRAMES, -(-(num_samples + _WINDOW // 2) // _HOP))
    # Three slices of rows of one hop make the frames: the gradient of a gather would be a scatter. Four clips of 7.2 s
    # with gradient take 16 ms this way, 54 ms with the silent frames. As a product with the matrix of the transform
    # they take 29 and 97 ms (2 cores of an AMD EPYC, jax 0.10.2, 2026-11-25), and accelerators would use TF32.
    rows = x[:, : (num_heard + 2) * _HOP].reshape(num, num_heard + 2, _HOP)
    frames = jnp.concatenate([rows[:, :-2], rows[:, 1:-1], rows[:, 2:, : _WINDOW - 2 * _HOP]], axis=-1)
    spectrum = jnp.fft.rfft(frames * _hann())
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(power, mel_filters(SAMPLE_RATE, _WINDOW, NUM_MELS), precision=jax.lax.Precision.HIGHEST)
    mel = jnp.pad(mel, ((0, 0), (0, NUM_FRAMES - num_heard), (0, 0)))
    log_power = jnp.log10(jnp.maximum(mel, _MIN_POWER))
    loudest = log_power.max(axis=(1, 2), keepdims=True)
    return (jnp.maximum(log_power, loudest - _DECADES) + 4.0) / 4.0


class WhisperEncoder(nn.Module):
    """Log-mel frames to features, `(n, frames, 80)` to `(n, frames / 2, width)`; `tiny.en` by default.

    Two convolutions, the second of stride 2, then a pre-norm transformer over all positions.

    Attributes:
        num_layers: layers of the transformer.
        width: width of the features; the MLPs are four times as wide.
        num_heads: attention heads, 64 wide in every published size.
        dtype: compute type; parameters, statistics of norms and the softmax are float32.
    """

    num_layers: int = 4
    width: int = 384
    num_heads: int = 6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, mel: jax.Array) -> jax.Array:
        x = mel.astype(self.dtype)
        for name, stride in (("conv1", 1), ("conv2", 2)):
            x = nn.Conv(self.width, (3,), strides=stride, padding=1, dtype=self.dtype, name=name)(x)
            x = nn.gelu(x, approximate=False)
        x = x + _sinusoids(x.shape[1], self.width).astype(self.dtype)
        for layer in range(self.num_layers):
            x = WhisperLayer(self.num_heads, self.dtype, name=f"layers_{layer}")(x)
        return _norm("norm", self.dtype)(x)


class WhisperLayer(nn.Module):
    """Self-attention and an MLP, each after a norm and added to its input; the keys have no bias."""

    num_heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        num, length, width = x.shape
        h = _norm("attention_norm", self.dtype)(x)
        query, key, value = (
            nn.Dense(width, use_bias=name != "key", dtype=self.dtype, name=name)(h).reshape(
                num, length, self.num_heads, width // self.num_heads
            )
            for name in ("query", "key", "value")
        )
        # Recomputed in the backward pass: 1500 x 1500 weights a head are 54 MB a clip and layer of `tiny`, and keeping
        # them is no faster (0.6 s either way for a layer with gradient, on the 2 cores named above).
        h = jax.checkpoint(jax.nn.dot_product_attention)(query, key, value).reshape(x.shape)
        x = x + nn.Dense(width, dtype=self.dtype, name="out")(h)
        h = nn.Dense(4 * width, dtype=self.dtype, name="mlp_in")(_norm("mlp_norm", self.dtype)(x))
        return x + nn.Dense(width, dtype=self.dtype, name="mlp_out")(nn.gelu(h, approximate=False))


def load_whisper(path_or_repository: str | os.PathLike[str]) -> tuple[WhisperEncoder, dict]:
    """The encoder of a published Whisper model and its weights; nothing else in the file is read.

    Args:
        path_or_repository: a safetensors file with the tensor names of Hugging Face, `model.encoder.*` or `encoder.*`;
            or, if no such file exists, a repository `owner/name`: its `model.safetensors` is downloaded to the cache
            of the hub.

    Returns:
        `encoder, params`, used as `encoder.apply({"params": params}, log_mel(waveforms))`. Sizes are those of the
        file; parameters are float32 whatever the file stores. For another compute type: `encoder.clone(dtype=...)`.

    Raises:
        ConfigError: nothing to read there, or not the weights of a Whisper encoder for 80 mel bands.
    """
    path = _find(os.fspath(path_or_repository))
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _read(file, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _refusal(f"{path} is not a safetensors file ({_first_line(error)})") from error


def _find(path_or_repository: str) -> str:
    """The path of an existing file, downloaded from a repository where it is needed."""
    if os.path.exists(path_or_repository):
        return path_or_repository
    is_repository = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path_or_repository)
    if not is_repository or path_or_repository.endswith(".safetensors"):
        raise _refusal(f"there is no file {path_or_repository!r}")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise _refusal(
            f"{path_or_repository!r} is no file, and downloading a repository needs huggingface_hub",
            "pip install huggingface_hub, " + _REMEDY,
        ) from error
    try:
        return hub.hf_hub_download(path_or_repository, _FILE_NAME)
    except Exception as error:  # from the hub, and from whatever transport it uses
        raise _refusal(
            f"{path_or_repository!r} is no file, and {_FILE_NAME} of a repository of that name cannot be downloaded "
            f"({_first_line(error)})"
        ) from error


def _read(file, path: str) -> tuple[WhisperEncoder, dict]:
    """Read sizes from the shapes in an open safetensors file, then only the tensors of the encoder."""
    names = set(file.keys())
    prefix = next((p for p in _PREFIXES if f"{p}conv1.weight" in names), None)
    if prefix is None:
        raise _refusal(f"{path} lacks the tensor {_PREFIXES[0]}conv1.weight")
    width, num_mels, _ = _shape(file, f"{prefix}conv1.weight", path, rank=3)
    if num_mels != NUM_MELS or width % _HEAD_WIDTH:
        raise _refusal(
            f"{path} is for {num_mels} mel bands and {width} wide, not for {NUM_MELS} and a multiple of {_HEAD_WIDTH}"
        )
    layers = [re.match(re.escape(prefix) + r"layers\.(\d+)\.", name) for name in names]
    num_layers = 1 + max((int(layer[1]) for layer in layers if layer), default=0)
    encoder = WhisperEncoder(num_layers=num_layers, width=width, num_heads=width // _HEAD_WIDTH)
    initial = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 2, NUM_MELS)))["params"]
    params = {}
    for parts, leaf in traverse_util.flatten_dict(initial).items():
        name = prefix + _published_name(parts)
        if name not in names:
            raise _refusal(f"{path} lacks the tensor {name}")
        shape = leaf.shape[::-1]  # PyTorch has outputs first, flax last
        if _shape(file, name, path, rank=len(shape)) != shape:
            raise _refusal(f"{path} has {name} of another shape than {shape}")
        params[parts] = jnp.asarray(file.get_tensor(name).astype(np.float32).T)
    return encoder, traverse_util.unflatten_dict(params)


def _shape(file, name: str, path: str, *, rank: int) -> tuple[int, ...]:
    """The shape of a tensor of floats, without reading it."""
    tensor = file.get_slice(name)
    if tensor.get_dtype() not in _FLOATS or len(tensor.get_shape()) != rank:
        raise _refusal(f"{path} has {name} as {tensor.get_dtype()} {tensor.get_shape()}, not as {rank}-d floats")
    return tuple(tensor.get_shape())


def _published_name(parts: tuple[str, ...]) -> str:
    """`("layers_0", "query", "kernel")` to `layers.0.self_attn.q_proj.weight`."""
    *modules, leaf = parts
    modules = [_MODULES.get(name, name).replace("layers_", "layers.") for name in modules]
    return ".".join([*modules, "bias" if leaf == "bias" else "weight"])


def _refusal(fact: str, remedy: str = _REMEDY) -> ConfigError:
    return ConfigError(f"loss.whisper_weights: {fact}: {remedy}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_NORM_EPSILON, dtype=dtype, name=name)  # flax's statistics are float32 anyway


def _hann() -> np.ndarray:
    """The periodic window."""
    return np.square(np.sin(np.pi / _WINDOW * np.arange(_WINDOW))).astype(np.float32)


def _sinusoids(length: int, width: int) -> np.ndarray:
    """Positions `(length, width)`, sines then cosines; the float32 table in published files is within 2e-4."""
    rates = np.exp(-math.log(_LONGEST_PERIOD) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
