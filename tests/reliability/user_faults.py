"""What users do to runs, and what they are given: cases of `tests.reliability.faults`."""

from __future__ import annotations

import io
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import safetensors.numpy

from vpvae_jax.config import workdir as layout
from vpvae_jax.data.sources import Record
from vpvae_jax.images.decoding import ImageDecoder
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech.decoding import AudioDecoder
from vpvae_jax.tokenizer import Tokenizer, storage

if TYPE_CHECKING:
    from tests.reliability.faults import Campaign

ROOT = pathlib.Path(__file__).parents[2]
Outcomes = Iterator[tuple[str, str, str]]

_WRITER = """
import pathlib, sys
import numpy as np
from vpvae_jax.tokenizer import storage
for number in range(10**6):
    arrays = {name: np.full(50_000, number, np.float32) for name in "abc"}
    storage.write(pathlib.Path(sys.argv[1]), arrays, {"number": number})
    print(number, flush=True)
"""


def saves(campaign: Campaign) -> Outcomes:
    """Kill a process that saves tokenizers, one over the other: what is there is the old one or the new one."""
    directory = campaign.root / "saved"
    for number in range(campaign.size.save_kills):
        words = [sys.executable, "-c", _WRITER, str(directory)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(campaign.rng.randint(1, 4)):
            last = int(process.stdout.readline())
        time.sleep(campaign.rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        last = int((process.stdout.read().split() or [last])[-1])
        process.wait()
        arrays, about = storage.read(directory)
        is_whole = all((array == about["number"]).all() for array in arrays.values())
        outcome = "old or new" if is_whole and about["number"] in (last, last + 1) else "LOST"
        left = len(list(directory.iterdir())) - 2
        yield "SIGKILL while saving a tokenizer", f"kill {number}, {max(0, left)} temporary files left", outcome


def fits(campaign: Campaign) -> Outcomes:
    """Kill fits of another codebook at any moment, then fit: the earlier tokenizer stays, the new one is the same."""
    workdir = campaign.root / "fitted"
    shutil.copytree(campaign.undisturbed, workdir)
    words = campaign.later(workdir, "fit_codebook", codebook__num_codes=8)
    began = time.monotonic()
    subprocess.run(words, cwd=ROOT, env=campaign.environment, capture_output=True, check=True)
    duration = time.monotonic() - began
    wanted, _ = storage.read(layout.tokenizer_of(workdir))
    earlier = storage.sha256(layout.tokenizer_of(campaign.undisturbed))
    for number in range(campaign.size.fit_kills):
        shutil.rmtree(workdir)
        shutil.copytree(campaign.undisturbed, workdir)
        process = subprocess.Popen(
            words, cwd=ROOT, env=campaign.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seconds = campaign.rng.uniform(0, duration)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = layout.tokenizers(workdir)[0]
        is_kept = storage.sha256(workdir / layout.TOKENIZERS / kept) == earlier
        Tokenizer.load(workdir)  # the current one, whichever it is, is whole
        subprocess.run(words, cwd=ROOT, env=campaign.environment, capture_output=True, check=True)
        found, _ = storage.read(layout.tokenizer_of(workdir))
        is_same = found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
        yield "SIGKILL while fitting", f"kill {number} after {seconds:.1f} s", "same" if is_same and is_kept else "LOST"


def races(campaign: Campaign) -> Outcomes:
    """Start two runs with other settings in one work directory: one finishes, the other says why it does not."""
    for number in range(campaign.size.races):
        workdir = campaign.root / f"race-{number}"
        processes = []
        for seed in (0, 1):
            processes.append(campaign.start(workdir, seed=seed, train__num_steps=2, train__warmup_steps=0))
            time.sleep(campaign.rng.uniform(0, 4))
        said = [(process.communicate(timeout=600)[1].strip().splitlines() or [""])[-1] for process in processes]
        codes = [process.returncode for process in processes]
        outcome = f"CODES {codes}"
        if sorted(codes) == [0, 1]:
            winner, loser = codes.index(0), codes.index(1)
            stored = json.loads((workdir / "config.json").read_text())["seed"]
            is_named = "another process is at work" in said[loser] or "holds another config" in said[loser]
            recorded = Tokenizer.load(workdir).config.seed
            outcome = "one of two" if is_named and stored == recorded == winner else f"MIXED: {said[loser][:120]}"
        yield "two runs in one work directory", f"pair {number}", outcome
        shutil.rmtree(workdir)


def crafted(campaign: Campaign) -> Outcomes:
    """Load tokenizers whose digests are right and whose parts do not fit together."""
    place = layout.tokenizer_of(campaign.undisturbed)
    rng = random.Random(0)
    kinds = ("dropped", "added", "other type", "other shape", "not finite", "other setting", "lacks a field")
    for number in range(campaign.size.crafted):
        arrays, about = storage.read(place)
        kind = kinds[number % len(kinds)]
        name = rng.choice(sorted(arrays))
        if kind == "dropped":
            del arrays[name]
        elif kind == "added":
            arrays[f"{name}-more"] = arrays[name]
        elif kind == "other type":
            arrays[name] = arrays[name].astype(rng.choice([np.int8, np.float16, np.float64, np.int32]))
        elif kind == "other shape":
            arrays[name] = np.concatenate([arrays[name]] * 2)
        elif kind == "not finite":
            arrays[name] = np.full_like(arrays[name], rng.choice([np.nan, np.inf]))
        elif kind == "other setting":
            section, key, value = rng.choice(
                [
                    ("quantizer", "codebook_size", 10**9), ("quantizer", "latent_dim", 5), ("model", "channels", 16),
                    ("model", "z_channels", 8), ("model", "name", "sqcodec"), ("quantizer", "name", "what"),
                    ("model", "channel_multipliers", [1, 1, 1]), ("quantizer", "eta", "much"),
                ]
            )  # fmt: skip
            about["config"][section][key] = value
            name = f"{section}.{key}={value}"
        else:
            name = rng.choice(["step", "config"])
            del about[name]
        directory = campaign.root / "crafted"
        directory.mkdir(exist_ok=True)
        text = json.dumps(about)
        metadata = {"vpvae_jax": text, "sha256": storage._digest(text, arrays)}
        (directory / storage.WEIGHTS).write_bytes(safetensors.numpy.save(arrays, metadata))
        try:
            Tokenizer.load(directory)
            outcome = "LOADED"
        except UserError as error:
            outcome = "refused" if "\n" not in str(error) else "SEVERAL LINES"
        yield "crafted tokenizer", f"{kind}: {name}", outcome


def hostile_images(campaign: Campaign) -> Outcomes:
    """Decode images that are not what they say: other formats, bombs, lines, deep and cut ones, names that steer."""
    del campaign
    rng = random.Random(0)
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))

    def encoded(image: PIL.Image.Image, kind: str) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    files: list[tuple[str, bytes]] = []
    for kind in ("TIFF", "BMP", "GIF", "PPM", "ICO", "EPS", "TGA", "PCX", "SGI", "DDS", "ICNS", "PDF"):
        files.append((f"{kind} called .jpg", encoded(photo, kind)))
    files += [("PostScript called .jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n")]
    files += [(f"{side} x 1", encoded(PIL.Image.new("1", (side, 1)), "PNG")) for side in (100, 10_000, 60_000)]
    files += [(f"1 x {side}", encoded(PIL.Image.new("1", (1, side)), "PNG")) for side in (100, 10_000, 60_000)]
    for side in (9_500, 13_000, 14_000):
        files.append((f"{side} x {side} of one bit", encoded(PIL.Image.new("1", (side, side)), "PNG")))
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = encoded(photo, kind)
        files += [(f"{kind} cut to {share:.0%}", whole[: int(len(whole) * share)]) for share in (0.02, 0.3, 0.7)]
        files += [(f"{kind} with noise", _with_noise(whole, rng)) for _ in range(9)]
    whole = encoded(photo, "PNG")
    for width in (0, 2**31 - 1, 2**32 - 1):
        files.append((f"PNG that says {width} pixels", whole[:16] + width.to_bytes(4, "big") + whole[20:]))
    files += [("empty", b""), ("text", b"hello"), ("zeros", bytes(4096)), ("HTML", b"<html><script>alert(1)</script>")]
    files += [(f"mode {mode}", encoded(photo.convert(mode), "PNG")) for mode in ("L", "LA", "P", "RGBA", "1")]
    yield from _decoded("hostile image", files, lambda: ImageDecoder(resize=256), 2**29)


def hostile_recordings(campaign: Campaign) -> Outcomes:
    """Decode recordings that are not what they say."""
    import soundfile

    del campaign
    rng = random.Random(0)
    tone = 0.3 * np.sin(np.arange(8000) / 7)

    def encoded(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
        return buffer.getvalue()

    files = [(f"floats of +-{scale:g}", encoded(tone * scale, subtype="FLOAT")) for scale in (2.0, 32768.0, 1e9, 1e30)]
    files += [(f"{value} among floats", encoded(np.where(np.arange(8000) == 9, value, tone), subtype="FLOAT"))
              for value in (np.nan, np.inf, -np.inf)]  # fmt: skip
    files += [(f"{rate} Hz", encoded(tone, rate)) for rate in (1, 100, 3_999, 4_000, 8_000, 192_000, 1_000_000)]
    files += [(f"{channels} channels", encoded(np.tile(tone[:, None], (1, channels)))) for channels in (2, 8, 64, 255)]
    files += [(f"{number} samples", encoded(tone[:number])) for number in (0, 1, 95, 96)]
    for kind, subtype in (("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)):
        whole = encoded(tone, kind=kind, subtype=subtype)
        files += [(f"{kind} cut to {share:.0%}", whole[: int(len(whole) * share)]) for share in (0.02, 0.3, 0.7)]
        files += [(f"{kind} with noise", _with_noise(whole, rng)) for _ in range(5)]
    whole = encoded(tone)
    for size in (0, 2**31 - 1, 2**32 - 2):
        files.append((f"WAV that says {size} bytes", whole[:40] + size.to_bytes(4, "little") + whole[44:]))
    files += [("empty", b""), ("text", b"RIFFhello"), ("zeros", bytes(4096)), ("silence", encoded(np.zeros(8000)))]
    yield from _decoded("hostile recording", files, AudioDecoder, 2**29)


def _with_noise(whole: bytes, rng: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(8):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _decoded(fault: str, files: list[tuple[str, bytes]], decoder, most_bytes: int) -> Outcomes:
    import resource

    for what, content in files:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decoded = decoder()(0, [Record(what, content)])
            outcome = "left out and named" if decoded is None else "read"
        except Exception as error:
            outcome = f"CRASHED: {error!r}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        yield fault, what, outcome if grown < most_bytes else f"TOOK {grown / 2**20:.0f} MiB"


def moved(campaign: Campaign) -> Outcomes:
    """Move the data of a finished run, train longer, then put other data of the same names there."""
    from tests.reliability.faults import folder_of_images

    for number in range(2):
        here, there = campaign.root / f"here-{number}", campaign.root / f"there-{number}"
        settings = folder_of_images(here)
        workdir = campaign.root / f"moved-{number}"
        code, said = campaign.run(workdir, **settings, train__num_steps=8)
        assert code == 0, said
        here.rename(there)
        words = campaign.later(workdir, "train", data__path=there, train__num_steps=NUM_STEPS_LONGER)
        done = subprocess.run(words, cwd=ROOT, env=campaign.environment, capture_output=True, text=True, check=False)
        is_longer = done.returncode == 0 and layout.newest_step(workdir) == NUM_STEPS_LONGER
        yield "data moved", f"trained longer, {number}", "resumed" if is_longer else f"NOT: {done.stderr[-200:]}"
        for path in there.glob("*.png"):
            PIL.Image.open(path).rotate(90).save(path)
        words = campaign.later(workdir, "train", data__path=there, train__num_steps=NUM_STEPS_LONGER + 2)
        done = subprocess.run(words, cwd=ROOT, env=campaign.environment, capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        is_refused = done.returncode == 1 and "the training set has changed" in last
        yield "data replaced", f"same names, {number}", "refused" if is_refused else f"NOT: {last[:160]}"


NUM_STEPS_LONGER = 12


def interrupts(campaign: Campaign) -> Outcomes:
    """Press Ctrl-C at every stage: saved or said, and the same command ends as an undisturbed run."""
    stages = {
        "reading": "reading ", "compiling": "compiling the step", "training": "compiled the step",
        "fitted": "fitted ", "evaluated": "eval/",
    }  # fmt: skip
    for stage, words in stages.items():
        for delay in campaign.size.interrupt_delays:
            workdir = campaign.root / f"interrupted-{stage}-{delay}"
            process = subprocess.Popen(
                campaign.words(workdir), cwd=ROOT, env=campaign.environment | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                if words in line:
                    break
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
            said = (errors.strip().splitlines() or [""])[-1]
            if process.returncode not in (0, 130) or "Traceback" in errors:
                outcome = f"CRASHED with {process.returncode}: {said[:120]}"
            else:
                outcome = campaign.outcome(workdir, *campaign.run(workdir))
            yield "Ctrl-C", f"{delay} s after {stage}", outcome
            shutil.rmtree(workdir)


def network_errors(campaign: Campaign) -> Outcomes:
    """Let single calls fail as on a network file system, then run again: named, and nothing is lost."""
    library = campaign.root / "failing_io.so"
    source = pathlib.Path(__file__).with_name("failing_io.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    cases = [
        ("open", "config.json", 0), ("fsync", "config.json", 0), ("rename", "config.json", 0),
        ("write", "metrics.jsonl", 3), ("open", "checkpoints", 20), ("write", "checkpoints", 10),
        ("fsync", "checkpoints", 0), ("rename", "checkpoints", 2), ("open", "tokenizers", 1),
        ("write", "weights.safetensors", 0), ("fsync", "weights.safetensors", 0), ("rename", "weights.safetensors", 0),
        ("write", "eval/", 0), ("rename", "eval/", 1),
    ]  # fmt: skip
    for number, error in ((5, "EIO"), (116, "ESTALE")):
        for call, path, after in cases:
            workdir = campaign.root / f"failing-{error}-{call}-{after}"
            environment = {
                "LD_PRELOAD": str(library), "FAIL_CALL": call, "FAIL_PATH": path, "FAIL_AFTER": str(after),
                "FAIL_ERRNO": str(number),
            }  # fmt: skip
            code, said = campaign.run(workdir, environment)
            outcome = campaign.outcome(workdir, code, said)
            if outcome == "refused":
                again = campaign.outcome(workdir, *campaign.run(workdir))
                outcome = "refused, then same" if again == "same" else f"refused, then {again}"
            yield error, f"{call} of {path}: {said[:100] if code else ''}", outcome
            shutil.rmtree(workdir, ignore_errors=True)


CASES = {
    case.__name__: case
    for case in (saves, fits, races, crafted, hostile_images, hostile_recordings, moved, interrupts, network_errors)
}
GOOD = ("old or new", "one of two", "read", "resumed", "refused, then same")
