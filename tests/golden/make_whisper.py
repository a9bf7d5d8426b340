"""Makes whisper.npz: what the PyTorch Whisper of transformers gives for the sounds and random weights drawn here.

python -m tests.golden.make_whisper   (made with transformers 5.24.0, torch 2.14.1)
"""

from pathlib import Path

import numpy as np

SIZES = {"small": (2, 128), "tiny": (4, 384)}  # layers, width; 64 a head
# Kept of the 3000 frames: all kinds of edges, and of the 1500 positions.
FRAMES = np.r_[0:6, 6:160:12, 160:2990:100, 2990:3000]
POSITIONS = np.r_[0:75:10, 75:1500:60, 1499]
SAMPLE_RATE = 16_000


def sounds() -> dict[str, np.ndarray]:
    """1.5 s, to be padded, and 31 s, to be cut and half silent: sweeps over noise, so that no band is only rounding."""
    rng = np.random.default_rng(0)
    clips = {}
    for name, seconds in (("short", 1.5), ("long", 31.0)):
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        sweep = 0.6 * np.sin(2 * np.pi * (100 * t + 3000 / seconds * t**2)) * np.cos(2 * np.pi * 1.3 * t)
        clips[name] = (sweep + 1e-2 * rng.normal(size=t.size)).astype(np.float32)
    clips["long"][5 * SAMPLE_RATE : 20 * SAMPLE_RATE] = 0.0
    return clips


def weights(num_layers: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of an encoder, by their names in a checkpoint."""
    shapes = {"conv1": (width, 80, 3), "conv2": (width, width, 3), "layer_norm": (width,)}
    for layer in range(num_layers):
        prefix = f"layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {prefix + "fc1": (4 * width, width), prefix + "fc2": (width, 4 * width)}
        shapes |= {prefix + "self_attn_layer_norm": (width,), prefix + "final_layer_norm": (width,)}
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[f"{name}.weight"] = 1 + 0.1 * rng.normal(size=shape)
        else:
            tensors[f"{name}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        if not name.endswith("k_proj"):
            tensors[f"{name}.bias"] = 0.1 * rng.normal(size=shape[:1])
    return {f"model.encoder.{name}": tensor.astype(np.float32) for name, tensor in tensors.items()}


def reference_filters() -> np.ndarray:
    from transformers import WhisperFeatureExtractor

    return np.asarray(WhisperFeatureExtractor().mel_filters, np.float32)


def reference_log_mel(sound: np.ndarray) -> np.ndarray:
    """`(1, 3000, 80)`."""
    from transformers import WhisperFeatureExtractor

    extracted = WhisperFeatureExtractor()(sound, sampling_rate=SAMPLE_RATE, return_tensors="np")
    return extracted["input_features"].transpose(0, 2, 1)


def reference_features(tensors: dict[str, np.ndarray], num_layers: int, width: int, mel: np.ndarray) -> np.ndarray:
    """`(n, 1500, width)`."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(
        WhisperConfig(
            encoder_layers=num_layers,
            d_model=width,
            encoder_attention_heads=width // 64,
            encoder_ffn_dim=4 * width,
        )
    ).eval()
    state = {name.removeprefix("model.encoder."): torch.from_numpy(tensor) for name, tensor in tensors.items()}
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert missing == ["embed_positions.weight"]  # the sinusoids it makes itself
    assert not unexpected
    with torch.no_grad():
        return encoder(torch.from_numpy(np.ascontiguousarray(mel.transpose(0, 2, 1)))).last_hidden_state.numpy()


def main() -> None:
    mels = {name: reference_log_mel(sound) for name, sound in sounds().items()}
    kept = {"mel_filters": reference_filters()}
    kept |= {f"log_mel/{name}": mel[:, FRAMES] for name, mel in mels.items()}
    for size, names in (("small", ("short", "long")), ("tiny", ("short",))):
        mel = np.concatenate([mels[name] for name in names])
        kept[f"features/{size}"] = reference_features(weights(*SIZES[size]), *SIZES[size], mel)[:, POSITIONS]
    np.savez_compressed(Path(__file__).with_name("whisper.npz"), **kept)


if __name__ == "__main__":
    main()
