"""Makes lpips.npz: what PyTorch's lpips (VGG, version 0.1) gives for photographs, by random and by the real weights.

python -m tests.golden.make_lpips lpips.safetensors   (made with lpips 0.1.4, torchvision 0.29, torch 2.14; its argument
is what `python -m vpvae_jax.main --mode=convert --network=lpips` writes; the heads come from the package lpips itself)
"""

import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
import skimage.data

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_CONVOLUTIONS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}


def images() -> tuple[np.ndarray, np.ndarray]:
    """Two photographs and what compression, noise and a shift might make of them: `(4, 48, 64, 3)` in [-1, 1]."""
    rng = np.random.default_rng(0)
    cat, rocket = (photo[100:148, 200:264] / 127.5 - 1.0 for photo in (skimage.data.chelsea(), skimage.data.rocket()))
    noisy = np.clip(cat + 0.2 * rng.normal(size=cat.shape), -1.0, 1.0)
    coarse = rocket[::4, ::4].repeat(4, axis=0).repeat(4, axis=1)
    originals = np.stack([cat, rocket, cat, rocket])
    others = np.stack([noisy, coarse, np.roll(cat, 2, axis=1), cat])
    return originals.astype(np.float32), others.astype(np.float32)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights at which every layer's output is of order 1, by our names."""
    rng = np.random.default_rng(seed)
    tensors, inputs = {}, 3
    for stage, widths in enumerate(WIDTHS, start=1):
        for number, width in enumerate(widths, start=1):
            name = f"vgg16.conv{stage}_{number}"
            tensors[f"{name}.kernel"] = rng.standard_normal((3, 3, inputs, width), np.float32) * (2 / 9 / inputs) ** 0.5
            tensors[f"{name}.bias"] = rng.standard_normal(width, np.float32) * np.float32(0.1)
            inputs = width
        tensors[f"head{stage}"] = rng.random(inputs, np.float32)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def reference(tensors: dict[str, np.ndarray], images: np.ndarray, others: np.ndarray, *, published_heads: bool):
    """`(n,)`."""
    import lpips
    import torch

    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = network.state_dict()
    for stage, numbers in _CONVOLUTIONS.items():
        for number, index in enumerate(numbers, start=1):
            name = f"vgg16.conv{stage}_{number}"
            kernel = np.ascontiguousarray(tensors[f"{name}.kernel"].transpose(3, 2, 0, 1))
            state[f"net.slice{stage}.{index}.weight"] = torch.from_numpy(kernel)
            state[f"net.slice{stage}.{index}.bias"] = torch.from_numpy(tensors[f"{name}.bias"])
        if not published_heads:
            head = torch.from_numpy(tensors[f"head{stage}"].reshape(1, -1, 1, 1))
            state |= {f"lin{stage - 1}.model.1.weight": head, f"lins.{stage - 1}.model.1.weight": head}
    network.load_state_dict(state)
    with torch.no_grad():
        pair = (torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in (images, others))
        return network(*pair).numpy().reshape(-1)


def main() -> None:
    real = safetensors.numpy.load_file(sys.argv[1])
    kept = {
        "random": reference(weights(), *images(), published_heads=False),
        "real": reference(real, *images(), published_heads=True),
    }
    for name, values in kept.items():
        print(name, values)
    np.savez(Path(__file__).with_name("lpips.npz"), **kept)


if __name__ == "__main__":
    main()
