"""Makes inception.npz: features of pytorch-fid's Inception for photographs and random weights, and its distance.

python -m tests.golden.make_inception   (made with pytorch-fid 0.3.0, torchvision 0.29, torch 2.14)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import skimage.data


def images() -> np.ndarray:
    """Two photographs, smaller and larger than what the network sees: `(1, h, w, 3)` uint8 each."""
    return [skimage.data.chelsea()[None, 40:200, 100:300], skimage.data.astronaut()[None]]


def state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors at which every layer's output is of order 1.

    Args:
        shapes: of a state dict's tensors, by their names in it.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        if len(shape) == 4:
            tensors[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith(("bn.weight", "running_var")):
            tensors[name] = rng.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(0.1)
    return tensors


def torch_shapes(ours: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes in pytorch-fid's state dict, of our names and shapes."""
    shapes = {}
    for name, shape in ours.items():
        if name.endswith(".kernel"):
            height, width, inputs, outputs = shape
            layer = name.removesuffix(".conv.kernel")
            shapes[f"{layer}.conv.weight"] = (outputs, inputs, height, width)
            shapes |= {f"{layer}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def reference_features(tensors: Mapping[str, np.ndarray], photos: list[np.ndarray]) -> np.ndarray:
    """`(n, 2048)`."""
    import torch
    from pytorch_fid import inception

    def our_state(url, progress):
        classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
        return {name: torch.from_numpy(tensor) for name, tensor in tensors.items()} | classifier

    inception.load_state_dict_from_url = our_state
    network = inception.InceptionV3().eval()
    with torch.no_grad():
        batches = [torch.from_numpy(photo.transpose(0, 3, 1, 2) / np.float32(255)) for photo in photos]
        return np.concatenate([network(batch)[0].numpy()[:, :, 0, 0] for batch in batches])


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Features of two distributions, `(100, 12)` float64, correlated."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(12, 12)) / 3
    return rng.normal(size=(100, 12)) @ mixing, 0.3 + rng.normal(size=(100, 12)) @ (mixing + 0.1)


def reference_distance() -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    (mean, cov), (other_mean, other_cov) = ((x.mean(0), np.cov(x, rowvar=False)) for x in samples())
    return calculate_frechet_distance(mean, cov, other_mean, other_cov)


def main() -> None:
    from vpvae_jax.perceptual.inception import inception_shapes

    features = reference_features(state(torch_shapes(inception_shapes())), images())
    print(features[:, :6], features.std(), reference_distance())
    np.savez_compressed(
        Path(__file__).with_name("inception.npz"), features=features, distance=np.array(reference_distance())
    )


if __name__ == "__main__":
    main()
