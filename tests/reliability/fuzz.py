"""Feed damaged files to everything that reads files, and report every crash.

python -m tests.reliability.fuzz [--inputs 10000] [--targets images audio ...] > results/reliability/fuzz.jsonl

Inputs are real files that Hypothesis flips bits of, overwrites, cuts, repeats, lengthens, or replaces by noise. A
target may give a result, or refuse by a UserError of one line (for a record of a data set: leave it out). Anything else
is a crash, and the exit code 1.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import io
import json
import logging
import pathlib
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence

import hypothesis
import numpy as np
import PIL.Image
import safetensors.numpy
from hypothesis import strategies as st

from benchmarks import reporting
from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.config.schema import Config
from vpvae_jax.data.sources import Record
from vpvae_jax.evaluation.records import Reconstruction, read_evaluations, write_results
from vpvae_jax.images.decoding import ImageDecoder
from vpvae_jax.perceptual.frozen import read_params
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech.decoding import AudioDecoder
from vpvae_jax.tokenizer import Tokenizer, storage
from vpvae_jax.training import loop, manifest
from vpvae_jax.training.fit import fit_codebook

Target = tuple[list[bytes], Callable[[bytes], str]]  # files to start from; an input to "read" or "refused"


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """Draw a file with one to four kinds of damage, half of it in the first bytes, where headers are; or noise."""
    if draw(st.integers(0, 99)) == 99:
        return draw(st.binary(max_size=400))
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        start = draw(st.integers(0, (min(len(content), 128) if draw(st.booleans()) else len(content)) - 1))
        kind = draw(st.sampled_from(("flip", "overwrite", "fill", "cut", "repeat", "append")))
        if kind == "flip":
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[start:]
        elif kind == "repeat":
            content[start:start] = content[start : start + draw(st.integers(1, 64))]
        elif kind == "append":
            content += draw(st.binary(min_size=1, max_size=64))
        else:
            part = len(content[start : start + draw(st.integers(1, 64))])
            fill = bytes([draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))]) * part
            new = fill if kind == "fill" else draw(st.binary(min_size=part, max_size=part))
            content[start : start + part] = new
    return bytes(content)


def images(directory: pathlib.Path) -> Target:
    """The decoder of images."""
    del directory
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((28, 20))
    files = []
    for kind, mode in (("png", "RGB"), ("png", "P"), ("jpeg", "RGB"), ("jpeg", "L"), ("webp", "RGB"), ("png", "LA")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, kind)
        files.append(buffer.getvalue())
    decoder = ImageDecoder(resize=16)

    def read(content):
        decoded = decoder(0, [Record("x", content)])
        if decoded is None:
            return "refused"
        assert decoded[1].dtype == np.uint8
        assert decoded[1].ndim == 3
        assert decoded[1].shape[2] == 3
        return "read"

    return files, read


def audio(directory: pathlib.Path) -> Target:
    """The decoder of recordings."""
    import soundfile

    del directory
    tone = 0.3 * np.sin(np.arange(1600) / 7).astype(np.float32)
    files = []
    for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)):
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16000, format=kind, subtype=subtype)
        files.append(buffer.getvalue())
    decoder = AudioDecoder()

    def read(content):
        decoded = decoder(0, [Record("x", content)])
        if decoded is None:
            return "refused"
        assert decoded[1].dtype == np.float32
        assert np.isfinite(decoded[1]).all()
        return "read"

    return files, read


def weights(directory: pathlib.Path) -> Target:
    """Safetensors files of frozen networks."""
    path = directory / "weights.safetensors"
    tensors = {"a.kernel": np.ones((3, 4), np.float32), "a.bias": np.zeros(4, np.float32)}
    safetensors.numpy.save_file(tensors, path)

    def read(content):
        path.write_bytes(content)
        params = read_params(path, {name: tensor.shape for name, tensor in tensors.items()}, "lpips")
        assert params["a"]["kernel"].shape == (3, 4)
        return "read"

    return [path.read_bytes()], read


def _tiny_run(directory: pathlib.Path) -> tuple[Config, pathlib.Path]:
    """Copy the work directory of a very small training with a tokenizer and an evaluation, made once."""
    config, template = _trained()
    shutil.copytree(template, directory / "run")
    return config, directory / "run"


@functools.cache
def _trained() -> tuple[Config, pathlib.Path]:
    directory = pathlib.Path(tempfile.mkdtemp(prefix="vpvae_jax_fuzz_"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    workdir = directory / "run"
    folder = directory / "pictures"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    values = {
        "data.source": "folder", "data.path": str(folder), "data.name": "", "data.crop": 16, "data.eval_crop": 16,
        "model.channels": 8, "model.channel_multipliers": (1, 1), "model.z_channels": 4, "train.num_steps": 2,
        "train.batch_size": 2, "train.warmup_steps": 0, "checkpoint.every": 1, "codebook.crop": 16,
        "codebook.max_latents": 64, "quantizer.codebook_size": 8, "quantizer.latent_dim": 3, "log.every": 1,
        "quantizer.k_radius": 6,
    }  # fmt: skip
    experiment = Experiment(load_config("photos", "", values))
    workdir.mkdir()
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for JSON lines
        loop.train(experiment, workdir)
        layout.write_config(experiment.config, workdir)
        fit_codebook(experiment, workdir).save(workdir / layout.TOKENIZERS / "k8-step2")
        layout.mark_current(workdir, "k8-step2")
    example = np.zeros((16, 16, 3), np.uint8)
    results = {
        "psnr_db": 1.0, "examples": [{"name": "0.png"}], "num_examples": 1, "num_skipped": 0, "size": "16px",
        "data": {"name": "pictures-all", "digest": "0" * 64}, "tokenizer": {"name": "k8-step2", "sha256": ""},
    }  # fmt: skip
    write_results(workdir, "x", results, np.ones(8, np.int64), [Reconstruction(example, example, example)])
    return experiment.config, workdir


def tokenizer_weights(directory: pathlib.Path) -> Target:
    """The weights of a tokenizer."""
    _, workdir = _tiny_run(directory)
    path = layout.tokenizer_of(workdir) / storage.WEIGHTS
    return _one_file(path, lambda _: Tokenizer.load(workdir))


def tokenizer_description(directory: pathlib.Path) -> Target:
    """The description of a tokenizer, config and all, whose digest is that of the damaged one."""
    _, workdir = _tiny_run(directory)
    place = layout.tokenizer_of(workdir)
    arrays, about = storage.read(place)

    def read(content):
        text = content.decode("utf-8", "replace")
        metadata = {"vpvae_jax": text, "sha256": storage._digest(text, arrays)}
        (place / storage.WEIGHTS).write_bytes(safetensors.numpy.save(arrays, metadata))
        Tokenizer.load(workdir)
        return "read"

    return [json.dumps(about).encode()], read


def stored_config(directory: pathlib.Path) -> Target:
    """config.json of a work directory."""
    config, workdir = _tiny_run(directory)

    def read(_):
        layout.check_may_follow(config, workdir, "train")

    return _one_file(workdir / layout.CONFIG, read)


def evaluation_arrays(directory: pathlib.Path) -> Target:
    """eval/*.npz of a work directory."""
    _, workdir = _tiny_run(directory)
    return _one_file(workdir / layout.EVAL / "x.npz", lambda _: read_evaluations(workdir))


def evaluation_results(directory: pathlib.Path) -> Target:
    """eval/*.json of a work directory."""
    _, workdir = _tiny_run(directory)
    return _one_file(workdir / layout.EVAL / "x.json", lambda _: read_evaluations(workdir))


def checkpoint_manifest(directory: pathlib.Path) -> Target:
    """manifest.json of a checkpoint."""
    _, workdir = _tiny_run(directory)
    step = workdir / layout.CHECKPOINTS / "2"

    def read(content):
        if manifest.damage(step):
            return "refused"
        assert json.loads(content) == original
        return "read"

    target = _one_file(step / manifest.NAME, read)
    original = json.loads(target[0][0])
    return target


def _one_file(path: pathlib.Path, use: Callable[[bytes], object]) -> Target:
    def read(content):
        path.write_bytes(content)
        return "refused" if use(content) == "refused" else "read"

    return [path.read_bytes()], read


TARGETS = {
    target.__name__: target
    for target in (
        images, audio, weights, tokenizer_weights, tokenizer_description, stored_config, evaluation_arrays,
        evaluation_results, checkpoint_manifest,
    )
}  # fmt: skip


def fuzz(name: str, num_inputs: int, seed: int = 0) -> dict[str, object]:
    """Feed a target, and count what was read and refused; a crash is shown with the smallest input that causes it.

    Returns:
        `target`, `inputs`, `read`, `refused`, `seconds`, `crash`: the input and the traceback, empty if there is none.
    """
    directory = pathlib.Path(tempfile.mkdtemp(prefix="vpvae_jax_fuzz_"))
    counts = {"read": 0, "refused": 0}
    start = time.perf_counter()
    try:
        files, read = TARGETS[name](directory)
        assert all(read(content) == "read" for content in files)

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=num_inputs, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(damaged(files))
        def feed(content):
            try:
                counts[read(content)] += 1
            except UserError as error:
                if "\n" in str(error):
                    raise ValueError("an error of several lines") from error
                counts["refused"] += 1

        try:
            feed()
            crash = ""
        except Exception as error:
            crash = "".join([*traceback.format_exception(error), *getattr(error, "__notes__", [])])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    seconds = time.perf_counter() - start
    return {"target": name, "inputs": sum(counts.values()), **counts, "crash": crash, "seconds": seconds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="a target")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    has_crashed = False
    for name in given.targets:
        line = fuzz(name, given.inputs, given.seed)
        if line["crash"]:
            logging.error("%s: %s", name, line["crash"])
            has_crashed = True
        reporting.write(line | {"crash": bool(line["crash"]), "seed": given.seed})
    return int(has_crashed)


if __name__ == "__main__":
    sys.exit(main())
