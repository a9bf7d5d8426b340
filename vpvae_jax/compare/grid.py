"""The runs of a comparison: which there are, and doing them in processes of their own."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vpvae_jax.compare.settings import Comparison
from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.config.schema import SEEDS, Config
from vpvae_jax.modality import columns
from vpvae_jax.runtime.errors import ConfigError, UserError
from vpvae_jax.runtime.files import read_json, write_json

JOB, OUTCOME, LOG = "job.json", "outcome.json", "log.txt"  # of a run's process, in its work directory
_POLL_SECONDS = 0.2
_KEEP_ALL = 10_000  # checkpoints
Row = dict[str, Any]


class GridRun(NamedTuple):
    """One training of the grid."""

    method: str  # what tables and plots call it
    argument: str  # of the config file: the method and its settings
    codebook_size: int  # K asked for
    seed: int

    @property
    def name(self) -> str:
        """Unique in a comparison, fit for a directory."""
        return f"{self.method}-{self.codebook_size}-{self.seed}"


class Job(NamedTuple):
    """A run and the settings that it was checked with."""

    run: GridRun
    settings: str  # `settings_hash` of its config


class Outcome(NamedTuple):
    """What a run adds to the tables of a comparison."""

    runs: list[Row]  # one row
    curves: list[Row]  # a row for each checkpoint
    refits: list[Row]  # a row for each codebook size other than the training's


def list_runs(comparison: Comparison) -> list[GridRun]:
    """Every run, seed by seed: an unfinished comparison is then a balanced one.

    Raises:
        ConfigError: a run that is named twice.
    """
    runs = []
    for seed in comparison.seeds:
        for codebook_size in comparison.codebook_sizes:
            runs += [GridRun(method, argument, codebook_size, seed) for method, argument in comparison.methods]
    for seed in comparison.ablation_seeds:
        size = comparison.ablation_codebook_size
        runs += [GridRun(method, argument, size, seed) for method, argument in comparison.ablations]
    for codebook_size in comparison.rate_codebook_sizes:
        runs += [
            GridRun(method, dict(comparison.methods)[method], codebook_size, comparison.seeds[0])
            for method in comparison.rate_methods
        ]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} would be trained twice: give each method, size and seed once")
    return runs


def check_comparison(comparison: Comparison) -> None:
    """Raise ConfigError for what would otherwise be found after hours of training."""
    comparison.check()
    for seed in (*comparison.seeds, *comparison.ablation_seeds):
        if not SEEDS.holds(seed):
            raise ConfigError(f"seeds have {seed}: expected {SEEDS.words}")
    for run in {(run.method, run.codebook_size): run for run in list_runs(comparison)}.values():  # one seed of each
        config = run_config(comparison, run)
        Experiment(config)
        splits = config.eval.splits
        if comparison.curve_split not in splits:
            raise ConfigError(f"curve_split={comparison.curve_split}: expected one of eval.splits={splits}")
        if run.method in comparison.refit_methods:
            for size in comparison.refit_codebook_sizes:
                config.codebook.num_codes = size
                Experiment(config)


def run_config(comparison: Comparison, run: GridRun) -> Config:
    """The config of a run."""
    argument = f"{run.argument},codebook_size={run.codebook_size}"
    overrides = comparison.overrides_of(run.method) | {"seed": run.seed}
    return load_config(comparison.config, argument, overrides)


def settings_hash(config: Config) -> str:
    """Short fingerprint of everything that changes what a run is trained to or how it is scored.

    Of a metric's file of weights only its presence counts, not its path.
    """
    free = config.keys_that_affect("nothing")
    modality = Experiment(config, is_training=False).modality  # whatever devices are at hand
    needs = {f"eval.{metric.needs}": metric.needs for metric in modality.metrics if metric.needs}
    settings = {
        key: bool(modality.weights_of(needs[key])) if key in needs else value
        for key, value in config.flatten().items()
        if key not in free
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def has_curve(comparison: Comparison, run: GridRun) -> bool:
    """Whether all checkpoints of the run are scored: those of the main grid, not of ablations and further sizes."""
    is_main = run.method in dict(comparison.methods) and run.codebook_size in comparison.codebook_sizes
    return is_main and run.seed in comparison.curve_seeds


def refit_sizes(comparison: Comparison, run: GridRun) -> tuple[int, ...]:
    """Sizes of the further codebooks that the trained run is scored with."""
    is_refitted = run.method in comparison.refit_methods and run.codebook_size in comparison.refit_trained_at
    return comparison.refit_codebook_sizes if is_refitted else ()


def do_run(comparison: Comparison, run: GridRun, workdir: pathlib.Path) -> Outcome:
    """Train, fit and evaluate a run, then its curve and refits. Resumes what is in the work directory.

    Returns:
        The rows; metrics of a split are called `SPLIT_METRIC`.

    Raises:
        UserError: what a user can fix.
    """
    from vpvae_jax import runs

    config = run_config(comparison, run)
    settings = settings_hash(config)
    if has_curve(comparison, run):
        config.checkpoint.keep = _KEEP_ALL
    experiment = runs.assemble(config, workdir, "train")
    results = runs.run(experiment, workdir, "train").results
    identity = {"method": run.method, "codebook_size": run.codebook_size, "seed": run.seed}
    row = {
        **identity,
        "quantizer": run.argument,
        "num_codes": next(iter(results.values()))["codebook_size"],
        "num_steps": config.train.num_steps,
        **{key: value for split in results for key, value in _metrics(experiment, split, results[split]).items()},
        "settings": settings,
    }
    curves, refits = [], []
    if has_curve(comparison, run):
        for step in _checkpointed_steps(workdir):
            curves.append({**identity, "step": step, **_scores(experiment, workdir, comparison.curve_split, step)})
    for size in refit_sizes(comparison, run):
        refitted = copy.deepcopy(config)
        refitted.codebook.num_codes = size
        scores = _scores(Experiment(refitted), workdir, comparison.curve_split)
        refits.append({**identity, "num_codes": size, **scores})
    return Outcome([row], curves, refits)


def _metrics(experiment: Experiment, split: str, results: Mapping[str, Any]) -> Row:
    keys = (*columns(experiment.modality.metrics), "cvu_ceiling", "num_tokens")
    return {f"{split}_{key}": results[key] for key in keys if key in results}


def _scores(experiment: Experiment, workdir: pathlib.Path, split: str, step: int | None = None) -> Row:
    """Metrics of a codebook fitted to a checkpoint, which is neither saved nor shown."""
    from vpvae_jax.evaluation.evaluate import evaluate
    from vpvae_jax.training.fit import fit_codebook

    tokenizer = fit_codebook(experiment, workdir, step)
    name = f"{split} at {step or 'the end'}"
    results, _, _ = evaluate(tokenizer, experiment.examples(split), experiment.scorer(), name=name)
    return _metrics(experiment, split, results)


def _checkpointed_steps(workdir: pathlib.Path) -> list[int]:
    from vpvae_jax.training.checkpoint import Checkpoints

    with Checkpoints(workdir / layout.CHECKPOINTS, _KEEP_ALL) as checkpoints:
        return checkpoints.steps()


def do_runs(
    comparison: Comparison, jobs: list[Job], workdir: pathlib.Path, num_jobs: int
) -> Iterator[tuple[GridRun, Outcome | UserError]]:
    """Do runs, some at a time, each in a process of its own with its share of the CPU cores (see `worker`).

    Args:
        comparison: the grid.
        jobs: the runs to do.
        workdir: each run gets a work directory below it.
        num_jobs: runs at a time.

    Yields:
        A run and its outcome, or the error that ended it, in the order in which they end.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    num_jobs = min(num_jobs, len(cores) or num_jobs)
    free = [cores[number::num_jobs] for number in range(num_jobs)]
    waiting = list(jobs)
    running: dict[subprocess.Popen, tuple[GridRun, list[int]]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, share = waiting.pop(0), free.pop()
                running[_start(comparison, job, workdir / job.run.name, share)] = job.run, share
            for process in [process for process in running if process.poll() is not None]:
                run, share = running.pop(process)
                free.append(share)
                yield run, _read_outcome(workdir / run.name, process.returncode)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(comparison: Comparison, job: Job, workdir: pathlib.Path, cores: list[int]) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / OUTCOME).unlink(missing_ok=True)
    content = {"comparison": comparison.to_dict(), "run": job.run._asdict(), "settings": job.settings, "cores": cores}
    write_json(workdir / JOB, content)
    with open(workdir / LOG, "a") as log:
        words = [sys.executable, "-m", "vpvae_jax.compare.worker", str(workdir)]
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _read_outcome(workdir: pathlib.Path, returncode: int) -> Outcome | UserError:
    if not (workdir / OUTCOME).exists():
        return UserError(f"its process ended with {returncode}, the reason is in {workdir / LOG}")
    outcome = read_json(workdir / OUTCOME)
    return UserError(outcome["error"]) if "error" in outcome else Outcome(**outcome)
