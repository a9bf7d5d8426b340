"""Kill, fill, damage and starve runs, and record how each ends.

python -m tests.reliability.faults [--cases kills damage ...] > results/reliability/faults.jsonl
python -m tests.reliability.faults --table results/reliability/faults.jsonl > results/reliability/faults.md
python -m tests.reliability.faults --short    a few faults, minutes, without root

A case ends well as "same": the run, resumed where it was stopped, has the parameters of an undisturbed one, bit for
bit; or as "refused": it stopped with one line that begins with "error:", and the last good checkpoint is intact. The
run is the photos config, narrow and of 24 steps, with the command line of README. `disks` needs root, to mount disks of
its own. Exits with 1 if a case ended otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import PIL.Image
import safetensors.numpy

from benchmarks import reporting
from tests.reliability import user_faults
from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime.environment import set_cpu_flags
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.training import loop, manifest
from vpvae_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
NUM_STEPS, EVERY = 24, 4
Outcomes = Iterator[tuple[str, str, str]]  # fault, what exactly, how it ended


class Size(NamedTuple):
    """How many faults of a kind."""

    kills: int = 36
    kills_a_run: int = 6
    sigterm_steps: tuple[int, ...] = (1, 6, 12, 23)
    damaged: tuple[tuple[str, int], ...] = (
        ("one bit flipped", 40),
        ("truncated", 20),
        ("zeroed block", 20),
        ("deleted", 20),
    )
    save_kills: int = 200
    fit_kills: int = 20
    races: int = 40
    crafted: int = 60
    interrupt_delays: tuple[float, ...] = (0.0, 0.3, 1.0)


SHORT = Size(
    kills=2,
    kills_a_run=2,
    sigterm_steps=(6,),
    damaged=(("one bit flipped", 2), ("truncated", 1), ("zeroed block", 1), ("deleted", 1)),
    save_kills=3,
    fit_kills=1,
    races=1,
    crafted=7,
    interrupt_delays=(0.3,),
)
SHORT_CASES = ("kills", "sigterm", "values", "images", "damage", *user_faults.CASES)
SETTINGS = {
    "model.channels": 8, "model.channel_multipliers": (1, 1), "model.z_channels": 4, "data.crop": 16,
    "data.eval_crop": 64, "data.cache_mib": 64, "quantizer.codebook_size": 16, "quantizer.latent_dim": 3,
    "codebook.crop": 32, "codebook.max_latents": 512, "train.num_steps": NUM_STEPS, "train.batch_size": 4,
    "train.warmup_steps": 2, "checkpoint.every": EVERY, "log.every": 1, "eval.batch_size": 2, "eval.num_pictures": 1,
    "eval.splits": ("test",),
}  # fmt: skip


class Campaign:
    """A directory of runs, with an undisturbed one to compare with.

    Args:
        root: empty directory.
        size: how many faults.
    """

    def __init__(self, root: pathlib.Path, size: Size):
        self.root, self.size = root, size
        self.rng = random.Random(0)
        self.environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # runs of 24 steps compile longer than they train
        }
        self.undisturbed = root / "undisturbed"
        code, said = self.run(self.undisturbed)
        if code:
            raise RuntimeError(f"the undisturbed run failed with {code}: {said}")

    def words(self, workdir: pathlib.Path, **overrides: object) -> list[str]:
        """Return the command line of the run."""
        settings = SETTINGS | {"data.data_dir": str(self.root / "data")}
        settings |= {key.replace("__", "."): value for key, value in overrides.items()}
        return [
            sys.executable, "-m", "vpvae_jax.main", f"--workdir={workdir}", "--config=photos",
            *(f"--config.{key}={value}" for key, value in settings.items()),
        ]  # fmt: skip

    def later(self, workdir: pathlib.Path, mode: str, **overrides: object) -> list[str]:
        """Return the command line of a mode that starts from the stored config."""
        words = [sys.executable, "-m", "vpvae_jax.main", f"--workdir={workdir}", f"--mode={mode}"]
        return words + [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]

    def start(self, workdir: pathlib.Path, environment: dict[str, str] | None = None, **overrides) -> subprocess.Popen:
        """Start the run."""
        return subprocess.Popen(
            self.words(workdir, **overrides), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=self.environment | (environment or {}),
        )  # fmt: skip

    def run(self, workdir: pathlib.Path, environment: dict[str, str] | None = None, **overrides) -> tuple[int, str]:
        """Run to the end: exit code and last line."""
        process = self.start(workdir, environment, **overrides)
        _, said = process.communicate(timeout=600)
        return process.returncode, (said.strip().splitlines() or [""])[-1]

    def outcome(self, workdir: pathlib.Path, code: int, said: str) -> str:
        """Tell how a run ended."""
        if code == 0:
            return "same" if same_weights(workdir, self.undisturbed) else "DIFFERENT"
        if code == 1 and said.startswith("error: "):
            return "refused" if newest_is_intact(workdir) else "refused, CHECKPOINT DAMAGED"
        return f"CRASHED with {code}"


def same_weights(workdir: pathlib.Path, other: pathlib.Path) -> bool:
    """Tell whether two runs have the same tokenizer, bit for bit."""
    mine, theirs = (
        safetensors.numpy.load_file(layout.tokenizer_of(d) / "weights.safetensors") for d in (workdir, other)
    )
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def steps_of(workdir: pathlib.Path) -> list[int]:
    """List the steps of finished checkpoints, ascending."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def newest_is_intact(workdir: pathlib.Path) -> bool:
    """Tell whether the newest checkpoint, if there is one, is as it was written."""
    steps = steps_of(workdir)
    return not steps or not manifest.damage(workdir / "checkpoints" / str(steps[-1]))


def num_logged(workdir: pathlib.Path) -> int:
    """Count the lines of metrics.jsonl, here steps."""
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kills(campaign: Campaign) -> Outcomes:
    """Kill runs again and again, at any moment and inside saves, then resume each to its end."""
    number = 0
    while number < campaign.size.kills:
        workdir = campaign.root / f"killed-{number}"
        moments = []
        for _ in range(campaign.size.kills_a_run):
            process = campaign.start(workdir)
            kind = campaign.rng.choice(["any moment", "a step", "a step", "inside a save", "inside a save"])
            began, limit = time.monotonic(), campaign.rng.uniform(0, 12)
            goal = min(NUM_STEPS - 1, num_logged(workdir) + campaign.rng.randint(1, 8))

            def is_time(kind=kind, began=began, limit=limit, goal=goal, workdir=workdir) -> bool:
                if kind == "inside a save":
                    return any((workdir / "checkpoints").glob("*tmp*"))
                if kind == "a step":
                    return num_logged(workdir) >= goal
                return time.monotonic() - began > limit

            while process.poll() is None and not is_time():
                time.sleep(0.001)
            was_running = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if was_running:
                moments.append(f"{kind}, step {num_logged(workdir)}")
        outcome = campaign.outcome(workdir, *campaign.run(workdir))
        for moment in moments:
            yield "SIGKILL", moment, outcome
        number += len(moments)
        shutil.rmtree(workdir)


def sigterm(campaign: Campaign) -> Outcomes:
    """Stop runs by SIGTERM at a step: each saves, ends with 0, and is resumed to its end."""
    for goal in campaign.size.sigterm_steps:
        workdir = campaign.root / f"terminated-{goal}"
        process = campaign.start(workdir)
        while process.poll() is None and num_logged(workdir) < goal:
            time.sleep(0.001)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        seconds, step = time.monotonic() - asked, max(steps_of(workdir))
        code = process.returncode
        outcome = campaign.outcome(workdir, *campaign.run(workdir)) if code == 0 else f"CRASHED with {code}"
        yield "SIGTERM", f"saved step {step}, ended after {seconds:.1f} s", outcome


def _harm(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    size = path.stat().st_size
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        os.truncate(path, rng.randrange(size) if size else 0)
    else:
        content = bytearray(path.read_bytes())
        if kind == "one bit flipped":
            content[rng.randrange(size)] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(size)
            content[start : start + 512] = bytes(len(content[start : start + 512]))
        path.write_bytes(content)


def damage(campaign: Campaign) -> Outcomes:
    """Damage files of checkpoints, of the newest or of both, and resume.

    In this process, with one compiled step for all: what is loaded and trained again is the loop's own.
    """
    settings = SETTINGS | {"data.data_dir": str(campaign.root / "data")}
    experiment = Experiment(load_config("photos", "", settings))
    program = loop.compile_program(experiment)
    abstract = loop.abstract_state(experiment)
    with Checkpoints(campaign.undisturbed / "checkpoints") as expected:
        wanted = expected.restore(abstract)
    with mock.patch.object(loop, "compile_program", return_value=program):
        yield from _damage(campaign, experiment, abstract, wanted)


def _damage(campaign: Campaign, experiment: Experiment, abstract, wanted) -> Outcomes:
    for kind, number in [(kind, number) for kind, count in campaign.size.damaged for number in range(count)]:
        workdir = campaign.root / "damaged"
        shutil.copytree(campaign.undisturbed, workdir)
        both = number % 10 == 9
        for step in steps_of(workdir)[-1 if not both else -2 :]:
            files = [p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file() and p.stat().st_size]
            if number % 2:  # half of the damage goes to the arrays
                files = [path for path in files if path.parent.name == "d"]
            path = campaign.rng.choice(sorted(files))
            before = path.read_bytes()
            _harm(path, kind, campaign.rng)
            changed = not path.exists() or path.read_bytes() != before
        name = path.relative_to(workdir / "checkpoints").as_posix()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                loop.train(experiment, workdir)
            with Checkpoints(workdir / "checkpoints") as found:
                state = found.restore(abstract)
            leaves = zip(*(jax.tree.leaves(tree) for tree in (wanted, state)), strict=True)
            is_same = all(np.array_equal(a, b) for a, b in leaves)
            outcome = "same" if is_same and int(state.step) == NUM_STEPS else "DIFFERENT"
        except UserError as error:
            outcome = "refused" if both and "damaged" in str(error) else f"REFUSED without need: {error}"
        except Exception as error:
            outcome = f"CRASHED: {error!r}"
        what = f"{kind}{'' if changed else ' (already so)'}, {'both steps, ' if both else ''}{name}"
        yield "damaged checkpoint", what, outcome
        shutil.rmtree(workdir)


@contextlib.contextmanager
def _disk(place: pathlib.Path, size: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def _fill(path: pathlib.Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def disks(campaign: Campaign) -> Outcomes:
    """Fill the disk, or make it read-only, during the run."""
    for goal in (0, 4, 8):
        place = campaign.root / f"small-{goal}"
        with _disk(place, "24m"):
            process = campaign.start(place / "run", train__num_steps=200, checkpoint__keep=1)
            while process.poll() is None and max(steps_of(place / "run"), default=0) < goal:
                time.sleep(0.005)
            _fill(place / "filler")
            _, said = process.communicate(timeout=300)
            said = (said.strip().splitlines() or [""])[-1]
            outcome = campaign.outcome(place / "run", process.returncode, said)
            yield "disk full", f"after checkpoint {goal}: {said[:160]}", outcome
            (place / "filler").unlink()
            code, said = campaign.run(place / "run", train__num_steps=200, checkpoint__keep=1)
            yield "disk full", f"after checkpoint {goal}, with room again", "finished" if code == 0 else f"NOT: {said}"
    place = campaign.root / "read-only"
    with _disk(place, "100m"):
        shutil.copytree(campaign.undisturbed, place / "run")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        code, said = campaign.run(place / "run", train__num_steps=NUM_STEPS)
        yield "read-only work directory", said[:160], campaign.outcome(place / "run", code, said)


_CLOCK = """
import time
_time, _start = time.time, time.monotonic()
time.time = lambda: _time() + ({jump} if time.monotonic() - _start > {after} else 0)
"""


def clock(campaign: Campaign) -> Outcomes:
    """Let Python's clock jump during the run, by a day, either way."""
    for jump in (86_400, -86_400):
        folder = campaign.root / f"clock{jump}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_CLOCK.format(jump=jump, after=6))
        workdir = campaign.root / f"clock-run{jump}"
        path = f"{folder}:{os.environ.get('PYTHONPATH', '')}".strip(":")
        code, said = campaign.run(workdir, {"PYTHONPATH": path})
        yield "clock jumps", f"{jump / 3600:+.0f} h after 6 s", campaign.outcome(workdir, code, said)


def values(campaign: Campaign) -> Outcomes:
    """Let the loss diverge: the run stops before it saves a loss that is not finite."""
    workdir = campaign.root / "diverging"
    code, said = campaign.run(workdir, train__learning_rate=1e30, checkpoint__every=2)
    yield "loss is not finite", said[:160], campaign.outcome(workdir, code, said)


def images(campaign: Campaign) -> Outcomes:
    """Train on a folder with two damaged images."""
    in_folder = folder_of_images(campaign.root / "broken")
    folder = campaign.root / "broken"
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:500])
    (folder / "3.png").write_bytes(b"")
    workdir = campaign.root / "broken-images"
    _, said = campaign.run(workdir, **in_folder)
    skipped = [json.loads(path.read_text())["num_skipped"] for path in (workdir / "eval").glob("broken-all.*.json")]
    yield "corrupt records", "two of six image files", "2 left out and counted" if skipped == [2] else f"NOT: {said}"


def folder_of_images(folder: pathlib.Path) -> dict[str, object]:
    """Write six images; what sets a run to read them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
    return {"data__source": "folder", "data__path": folder, "data__name": "", "eval__splits": ("all",)}


def records(campaign: Campaign) -> Outcomes:
    """Remove or damage data during the run."""
    folder = campaign.root / "vanishing"
    in_folder = folder_of_images(folder)
    workdir = campaign.root / "vanishing-images"
    process = campaign.start(workdir, **in_folder, train__num_steps=60)
    while process.poll() is None and num_logged(workdir) < 5:
        time.sleep(0.005)
    for path in folder.glob("*.png"):
        path.unlink()
    _, said = process.communicate(timeout=300)
    said = (said.strip().splitlines() or [""])[-1]
    # Decoded images are kept in memory; what ends the run is that the next part of it finds no files.
    yield "data vanish", said[:160], campaign.outcome(workdir, process.returncode, said)

    data = campaign.root / "damaged-data"
    shutil.copytree(campaign.root / "data", data)
    for path in sorted((data / "photos").rglob("*.array_record*"), key=lambda path: -path.stat().st_size)[:1]:
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 2000] = bytes(2000)
        path.write_bytes(content)
    workdir = campaign.root / "damaged-array-record"
    process = campaign.start(workdir, data__data_dir=data, data__cache_mib=0)
    _, said = process.communicate(timeout=600)
    last = (said.strip().splitlines() or [""])[-1]
    if process.returncode == 0:
        num = said.count("skipping record")
        outcome = "left out and named" if num else campaign.outcome(workdir, 0, last)
        yield "corrupt records", f"a block of array_record, {num} records", outcome
    else:
        yield "corrupt records", "a block of array_record", campaign.outcome(workdir, process.returncode, last)


SPEECH = {
    "data.crop": 1920, "data.cache_mib": 64, "model.feature_dim": 16, "model.encoder_widths": (4, 4, 8, 8),
    "model.encoder_depths": (0, 0, 1, 1), "model.decoder_widths": (8, 8, 4, 4, 4), "model.decoder_depths": (1, 1, 0, 0),
    "model.attention_window": 20, "model.num_heads": 2, "model.window": 1920, "model.context": 480,
    "quantizer.codebook_size": 16, "quantizer.latent_dim": 3, "codebook.crop": 1920, "codebook.max_latents": 2048,
    "train.num_steps": 2, "train.batch_size": 4, "train.warmup_steps": 0, "eval.num_pictures": 0,
    "eval.splits": ("test",),
}  # fmt: skip


def workers(campaign: Campaign) -> Outcomes:
    """Kill the processes that score speech during an evaluation; data are read by threads, which die in `kills`."""
    workdir = campaign.root / "speech"
    words = [sys.executable, "-m", "vpvae_jax.main", f"--workdir={workdir}", "--config=speech"]
    words += [f"--config.{key}={value}" for key, value in (SPEECH | {"data.data_dir": campaign.root / "data"}).items()]
    subprocess.run(words, cwd=ROOT, env=campaign.environment, capture_output=True, check=True)
    (path,) = (workdir / "eval").glob("*.json")
    expected = json.loads(path.read_text())
    for number in range(6):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*words, "--mode=evaluate"], cwd=ROOT, env=campaign.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and not _scoring_processes(process.pid):
            time.sleep(0.001)
        time.sleep(campaign.rng.uniform(0, 6))  # while they start, or while they score
        num_killed = 0
        for victim in _scoring_processes(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                num_killed += 1
        _, said = process.communicate(timeout=600)
        said = (said.strip().splitlines() or [""])[-1]
        if process.returncode == 0:
            outcome = "same scores" if json.loads(path.read_text()) == expected else "DIFFERENT"
        else:
            outcome = campaign.outcome(workdir, process.returncode, said)
        if num_killed:
            yield "scoring process killed", f"{num_killed} at once, evaluation {number}", outcome


def _scoring_processes(parent: int) -> set[int]:
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            its_parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if its_parent == str(parent) and b"spawn_main" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


CASES: dict[str, Callable[[Campaign], Outcomes]] = {
    case.__name__: case for case in (kills, sigterm, workers, disks, clock, values, images, records, damage)
} | user_faults.CASES
GOOD = (
    "same", "same scores", "refused", "finished", "2 left out and counted", "left out and named", *user_faults.GOOD,
)  # fmt: skip


def table(lines: list[dict]) -> str:
    """Format the lines as Markdown: how often each fault ended how, then every case."""
    counts: dict[tuple[str, str], int] = {}
    for line in lines:
        key = line["fault"], line["outcome"]
        counts[key] = counts.get(key, 0) + 1
    rows = ["| fault | ended as | cases |", "|---|---|---|"]
    rows += [f"| {fault} | {outcome} | {count} |" for (fault, outcome), count in counts.items()]
    lost = sum(line["outcome"] not in GOOD for line in lines)
    rows += ["", f"{len(lines)} cases, {lost} of them lost, silently wrong, or ended without a message.", ""]
    rows += ["| | fault | what exactly | ended as |", "|---|---|---|---|"]
    rows += [
        f"| {number} | {line['fault']} | {line['what'].replace('|', '/')} | {line['outcome']} |"
        for number, line in enumerate(lines, start=1)
    ]
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default all, or those of --short")
    parser.add_argument("--short", action="store_true", help="a few faults of the cases that need no root")
    parser.add_argument("--table", type=pathlib.Path, help="lines that were written before")
    given = parser.parse_args(argv)
    if given.table:
        print(table([json.loads(line) for line in given.table.read_text().splitlines()]))
        return 0
    logging.disable(logging.WARNING)
    is_good = True
    root = pathlib.Path(tempfile.mkdtemp(prefix="vpvae_jax_faults_"))
    try:
        campaign = Campaign(root, SHORT if given.short else Size())
        for name in given.cases or (SHORT_CASES if given.short else CASES):
            for fault, what, outcome in CASES[name](campaign):
                reporting.write({"fault": fault, "what": what.replace(str(root), "ROOT"), "outcome": outcome})
                is_good &= outcome in GOOD
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    # As in the runs: otherwise XLA rounds differently in this process.
    set_cpu_flags()
    jax.config.update("jax_disable_most_optimizations", True)
    sys.exit(main())
