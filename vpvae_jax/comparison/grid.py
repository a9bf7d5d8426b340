"""The runs of a comparison: which there are, and doing them in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from vpvae_jax import build
from vpvae_jax import workdir as layout
from vpvae_jax.added_keys import ADDED
from vpvae_jax.config_arguments import load_config
from vpvae_jax.errors import ConfigError, UserError

JOB, OUTCOME = "job.json", "outcome.json"  # what a process is told and what it answers, in its work directory
_KEYS = (
    "config",
    "seeds",
    "codebook_sizes",
    "methods",
    "ablation_codebook_size",
    "ablation_seeds",
    "ablations",
    "curve_seeds",
    "curve_split",
    "rate_methods",
    "rate_codebook_sizes",
    "refit_methods",
    "refit_trained_at",
    "refit_codebook_sizes",
    "overrides",
    "method_overrides",
)
# Settings that leave the figures of a run as they are.
_WITHOUT_EFFECT = (
    "checkpoint.every",
    "checkpoint.keep",
    "data.cache_mib",
    "data.data_dir",
    "data.num_threads",
    "eval.num_pictures",
    "log.every",
    "model.remat",
)
_POLL_SECONDS = 0.2
_KEEP_ALL = 10_000  # checkpoints
Row = dict[str, Any]


class Run(NamedTuple):
    """One training of the grid."""

    method: str  # what tables and figures call it
    argument: str  # of the config file: the method and its settings
    codebook_size: int  # K asked for
    seed: int

    @property
    def name(self) -> str:
        """Unique in a comparison, fit for a directory."""
        return f"{self.method}-{self.codebook_size}-{self.seed}"


class Job(NamedTuple):
    """A run and the settings that it was checked with."""

    run: Run
    settings: str  # `settings_hash` of its config


class Outcome(NamedTuple):
    """What a run adds to the tables of a comparison."""

    runs: list[Row]  # one row
    curves: list[Row]  # a row a checkpoint
    refits: list[Row]  # a row a codebook size other than the training's


def list_runs(comparison: ml_collections.ConfigDict) -> list[Run]:
    """Every run: the main grid a seed after the other, so that an unfinished comparison is a balanced one."""
    runs = []
    for seed in comparison.seeds:
        for codebook_size in comparison.codebook_sizes:
            runs += [Run(method, argument, codebook_size, seed) for method, argument in comparison.methods]
    for seed in comparison.ablation_seeds:
        size = comparison.ablation_codebook_size
        runs += [Run(method, argument, size, seed) for method, argument in comparison.ablations]
    for codebook_size in comparison.rate_codebook_sizes:
        runs += [
            Run(method, dict(comparison.methods)[method], codebook_size, comparison.seeds[0])
            for method in comparison.rate_methods
        ]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} would be trained twice: give each method, size and seed once")
    return runs


def check_comparison(comparison: ml_collections.ConfigDict) -> None:
    """Raise ConfigError for what would else be found after hours of training."""
    lacking = [key for key in _KEYS if key not in comparison]
    if lacking:
        raise ConfigError(f"the comparison lacks {', '.join(lacking)}: compare it with configs/comparisons/photos.py")
    for key in ("methods", "seeds", "codebook_sizes"):
        if not comparison[key]:
            raise ConfigError(f"the comparison has no {key}: expected at least one")
    known = dict(comparison.methods)
    unknown = [name for name in (*comparison.rate_methods, *comparison.refit_methods) if name not in known]
    known |= dict(comparison.ablations)
    unknown += [name for name in comparison.method_overrides if name not in known]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no method of the comparison, expected one of {', '.join(known)}")
    if len(comparison.curve_seeds) > 1 or not set(comparison.curve_seeds) <= set(comparison.seeds):
        raise ConfigError(
            f"curve_seeds={tuple(comparison.curve_seeds)}: expected none or one of seeds={tuple(comparison.seeds)}"
        )
    for run in list_runs(comparison):
        config = run_config(comparison, run)
        build.build_schedule(config)
        if comparison.curve_split not in config.eval.splits:
            raise ConfigError(f"curve_split={comparison.curve_split}: expected one of eval.splits={config.eval.splits}")
        if run.method in comparison.refit_methods:
            for size in comparison.refit_codebook_sizes:
                config.codebook.num_codes = size
                build.check_config(config)


def run_config(comparison: ml_collections.ConfigDict, run: Run) -> ml_collections.ConfigDict:
    """The config of a run, checked."""
    argument = f"{run.argument},codebook_size={run.codebook_size}"
    overrides = build.flatten(comparison.overrides) | build.flatten(comparison.method_overrides.get(run.method, {}))
    config = load_config(comparison.config, argument, overrides | {"seed": run.seed})
    build.check_config(config)
    return config


def settings_hash(config: ml_collections.ConfigDict) -> str:
    """Short fingerprint of everything that a run is trained and scored with."""
    settings = {
        key: value
        for key, value in build.flatten(config).items()
        if key not in _WITHOUT_EFFECT and not (key in ADDED and value == ADDED[key])
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def has_curve(comparison: ml_collections.ConfigDict, run: Run) -> bool:
    """Whether all checkpoints of the run are scored: those of the main grid, not of ablations and further sizes."""
    is_main = run.method in dict(comparison.methods) and run.codebook_size in comparison.codebook_sizes
    return is_main and run.seed in comparison.curve_seeds


def refit_sizes(comparison: ml_collections.ConfigDict, run: Run) -> tuple[int, ...]:
    """Sizes of the further codebooks that the trained run is scored with."""
    is_refitted = run.method in comparison.refit_methods and run.codebook_size in comparison.refit_trained_at
    return tuple(comparison.refit_codebook_sizes) if is_refitted else ()


def do_run(comparison: ml_collections.ConfigDict, run: Run, workdir: pathlib.Path) -> Outcome:
    """Train, fit, evaluate; then what the figures need of this run. Resumes what is in `workdir`.

    Returns:
        The rows; figures of a split are called `SPLIT_FIGURE`.
    """
    from vpvae_jax import main

    config = run_config(comparison, run)
    settings = settings_hash(config)
    if has_curve(comparison, run):
        config.checkpoint.keep = _KEEP_ALL
    main.run(config, workdir, "train")
    prefix = {"method": run.method, "codebook_size": run.codebook_size, "seed": run.seed}
    results = {split: layout.read_json(path) for split, path in _result_files(config, workdir).items()}
    num_codes = next(iter(results.values()))["codebook_size"]
    row = {
        **prefix,
        "quantizer": run.argument,
        "num_codes": num_codes,
        "num_steps": config.train.num_steps,
        **{key: value for split in results for key, value in _figures(config, split, results[split]).items()},
        "settings": settings,
    }
    curves, refits = [], []
    if has_curve(comparison, run):
        for step in _checkpointed_steps(workdir):
            curves.append({**prefix, "step": step, **_scores(config, workdir, comparison.curve_split, step)})
    for size in refit_sizes(comparison, run):
        config.codebook.num_codes = size
        refits.append({**prefix, "num_codes": size, **_scores(config, workdir, comparison.curve_split)})
    return Outcome([row], curves, refits)


def _result_files(config, workdir) -> dict[str, pathlib.Path]:
    name = build.dataset_name(config)
    return {split: workdir / layout.EVAL / f"{name}-{split}.json" for split in config.eval.splits}


def _figures(config: ml_collections.ConfigDict, split: str, results: dict[str, Any]) -> Row:
    figures = build.modality_of(config).figures
    return {f"{split}_{figure}": results[figure] for figure in figures if figure in results}


def _scores(config, workdir: pathlib.Path, split: str, step: int | None = None) -> Row:
    """Figures of a codebook fitted to a checkpoint, which is neither saved nor drawn."""
    from vpvae_jax.evaluation.evaluate import evaluate
    from vpvae_jax.fit import fit_codebook

    tokenizer = fit_codebook(config, workdir, step)
    examples, name = build.examples(config, split), f"{split} at {step or 'the end'}"
    results, _, _ = evaluate(tokenizer, examples, build.build_scorer(config), name=name)
    return _figures(config, split, results)


def _checkpointed_steps(workdir: pathlib.Path) -> list[int]:
    from vpvae_jax.training.checkpoint import Checkpoints

    with Checkpoints(workdir / layout.CHECKPOINTS, _KEEP_ALL) as checkpoints:
        return checkpoints.steps()


def do_runs(
    comparison: ml_collections.ConfigDict, jobs: list[Job], workdir: pathlib.Path, num_jobs: int
) -> Iterator[tuple[Run, Outcome | UserError]]:
    """Do runs, some at a time, each in a process of its own with its share of the CPU cores (see `worker`).

    Yields:
        A run and its outcome, or the error that ended it, in the order in which they end.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    num_jobs = min(num_jobs, len(cores) or num_jobs)
    free = [cores[number::num_jobs] for number in range(num_jobs)]
    waiting = list(jobs)
    under_way: dict[subprocess.Popen, tuple[Run, list[int]]] = {}
    try:
        while waiting or under_way:
            while waiting and free:
                job, share = waiting.pop(0), free.pop()
                under_way[_start(comparison, job, workdir / job.run.name, share)] = job.run, share
            for process in [process for process in under_way if process.poll() is not None]:
                run, share = under_way.pop(process)
                free.append(share)
                yield run, _read_outcome(workdir / run.name, process.returncode)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in under_way:
            process.terminate()
        for process in under_way:
            process.wait()


def _start(
    comparison: ml_collections.ConfigDict, job: Job, workdir: pathlib.Path, cores: list[int]
) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / OUTCOME).unlink(missing_ok=True)
    told = {"comparison": comparison.to_dict(), "run": job.run._asdict(), "settings": job.settings, "cores": cores}
    layout.write_json(workdir / JOB, told)
    with open(workdir / "log.txt", "a") as log:
        words = [sys.executable, "-m", "vpvae_jax.comparison.worker", str(workdir)]
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _read_outcome(workdir: pathlib.Path, returncode: int) -> Outcome | UserError:
    if not (workdir / OUTCOME).exists():
        return UserError(f"its process ended with {returncode}, the reason is in {workdir / 'log.txt'}")
    outcome = layout.read_json(workdir / OUTCOME)
    return UserError(outcome["error"]) if "error" in outcome else Outcome(**outcome)
