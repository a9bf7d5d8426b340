"""Pictures of reconstructed images, for people to look at."""

from __future__ import annotations

import pathlib

import matplotlib.figure

from vpvae_jax.modality import Shown, label

RECONSTRUCTIONS = "reconstructions.png"


def show_images(directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
    """Draw `reconstructions.png`: a column an image, a row each for original, continuous and quantized.

    Args:
        directory: where the file is written.
        examples: at least one.

    Returns:
        The path of the file.
    """
    rows = tuple(examples[0].arrays)
    figure = matplotlib.figure.Figure(figsize=(2.4 * len(examples) + 0.6, 8.0), layout="constrained")
    axes = figure.subplots(len(rows), len(examples), squeeze=False)
    for j, example in enumerate(examples):
        axes[0, j].set_title(label(f"{example.evaluation}\n{example.name}"), fontsize=9)
        for i, row in enumerate(rows):
            axes[i, j].imshow(example.arrays[row], interpolation="nearest")
            axes[i, j].set(xticks=[], yticks=[])
    for i, row in enumerate(rows):
        axes[i, 0].set_ylabel(row, fontsize=12)
    figure.savefig(directory / RECONSTRUCTIONS, dpi=110)
    return [directory / RECONSTRUCTIONS]
