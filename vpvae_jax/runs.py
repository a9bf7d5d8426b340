"""The stages of a run, as a table: train, fit the codebook, evaluate, report."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.schema import Config
from vpvae_jax.evaluation.evaluate import evaluate
from vpvae_jax.evaluation.records import evaluation_name, write_results
from vpvae_jax.reporting.report import print_summary, write_report
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.environment import machine
from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.runtime.files import write_json
from vpvae_jax.runtime.preemption import stop_when_asked
from vpvae_jax.tokenizer import Tokenizer, storage
from vpvae_jax.training import warm_start
from vpvae_jax.training.fit import fit_codebooks
from vpvae_jax.training.loop import train

_LOG = logging.getLogger(__name__)
_LOW_CVU = 0.05  # of what equal use of all codes would show
_NAME = re.compile(r"[\w+-][\w.+-]*")  # of a tokenizer


@dataclasses.dataclass(frozen=True)
class Options:
    """What a command line says besides the config."""

    tokenizer: str = ""  # name of the one to evaluate, or to fit; default the current one, or made of K and step
    codebook_sizes: tuple[int, ...] = ()  # to fit codebooks of; default the config's


@dataclasses.dataclass
class Run:
    """A run on its way through the stages."""

    experiment: Experiment
    workdir: pathlib.Path
    options: Options = Options()
    tokenizers: dict[str, Tokenizer] = dataclasses.field(default_factory=dict)  # by name, once fitted or loaded
    results: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # by split, of the last tokenizer


def assemble(
    config: Config | None, workdir: pathlib.Path, mode: str, overrides: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment that a mode works with in a work directory; the data are checked. Nothing is written.

    Args:
        config: None for the one that the work directory was trained with.
        workdir: of the run.
        mode: a key of `STAGES`.
        overrides: without a config, what differs from the stored one, by dotted key.

    Raises:
        UserError: no config, one that cannot work, or one that differs from the training's where it must not; data
            that would stop the training later.
    """
    is_stored = (workdir / layout.CONFIG).exists()
    if config is None and mode == "train" and not is_stored:
        raise ConfigError(
            f"no config, and {workdir} holds none: expected --config=photos or another file with get_config()"
        )
    if config is None:
        config = layout.overridden(workdir, overrides or {})
    processes.check_same(
        {"mode": mode} | {key: repr(value) for key, value in config.flatten().items()},
        "was started with other settings (give all the same command but for --process_id)",
    )
    processes.check_same_workdir(workdir)
    experiment = Experiment(config)
    if is_stored or mode != "train":
        layout.check_may_follow(config, workdir, "train" if mode == "train" else "later")
    if _evaluate in STAGES[mode]:
        reads = experiment.check_data(to_train=mode == "train")
        if processes.is_first():
            print(f"reading {reads}", flush=True)
        with experiment.scorer():
            pass  # what its metrics need exists
    return experiment


def run(experiment: Experiment, workdir: pathlib.Path, mode: str, options: Options = Options()) -> Run:
    """Do the stages of a mode. All processes of a run work, each on its share; the first one writes.

    Args:
        experiment: see `assemble`.
        workdir: made by `train` if it does not exist.
        mode: a key of `STAGES`.
        options: of the command line.

    Returns:
        What the stages made.

    Raises:
        UserError: what a user can fix.
    """
    if options.tokenizer and (not _NAME.fullmatch(options.tokenizer) or options.tokenizer == layout.CURRENT):
        raise ConfigError(
            f"--tokenizer={options.tokenizer}: expected letters, digits and .+-_, and not {layout.CURRENT}"
        )
    state = Run(experiment, workdir, options)
    for stage in STAGES[mode]:
        stage(state)
    if mode == "train" and processes.is_first():
        (tokenizer,) = state.tokenizers.values()
        write_json(workdir / layout.DONE, {"step": tokenizer.step})
    processes.wait_for_all()
    return state


def _train(run: Run) -> None:
    is_new = bool(run.experiment.config.train.init_from) and layout.newest_step(run.workdir) is None
    params = warm_start.load(run.experiment) if is_new else None
    if processes.is_first():
        if (run.workdir / layout.CONFIG).exists():  # written since `assemble` looked
            layout.check_may_follow(run.experiment.config, run.workdir, "train")
        layout.write_config(run.experiment.config, run.workdir)
        if params:
            print(f"starting from {run.experiment.config.train.init_from}: {', '.join(params)}", flush=True)
    with jax.debug_nans(run.experiment.config.debug.nans):
        train(run.experiment, run.workdir, params)


def _fit(run: Run) -> None:
    stop_when_asked()
    experiments = [run.experiment]
    if run.options.codebook_sizes:
        experiments = [_with_codebook_size(run.experiment.config, size) for size in run.options.codebook_sizes]
    earlier = layout.tokenizers(run.workdir)
    for tokenizer in fit_codebooks(experiments, run.workdir):
        name = _keep(tokenizer, run.workdir, run.options.tokenizer) if processes.is_first() else ""
        name = processes.from_first(name)
        run.tokenizers[name] = tokenizer
        if processes.is_first():
            if not run.options.codebook_sizes or not layout.current_tokenizer(run.workdir):
                layout.mark_current(run.workdir, name)
            is_current = ", the current one" if layout.current_tokenizer(run.workdir) == name else ""
            was_there = ", as it was there already" if name in earlier else ""
            directory = run.workdir / layout.TOKENIZERS / name
            print(
                f"fitted {tokenizer.codebook_size} codes at step {tokenizer.step}: {directory}{was_there}{is_current}",
                flush=True,
            )


def _with_codebook_size(config: Config, size: int) -> Experiment:
    changed = copy.deepcopy(config)
    changed.codebook.num_codes = size
    return Experiment(changed)


def _keep(tokenizer: Tokenizer, workdir: pathlib.Path, name: str) -> str:
    """Save a tokenizer beside the others of the run, none of which is replaced; returns its name."""
    wanted = name or f"k{tokenizer.codebook_size}-step{tokenizer.step}"
    for number in itertools.count(1):
        candidate = wanted if number == 1 else f"{wanted}-{number}"
        directory = workdir / layout.TOKENIZERS / candidate
        if not directory.exists():
            tokenizer.save(directory)
        elif not _holds(directory, tokenizer):
            if name:
                raise ConfigError(f"{directory} holds another tokenizer: give --tokenizer=NAME another name")
            continue
        return candidate
    raise AssertionError


def _holds(directory: pathlib.Path, tokenizer: Tokenizer) -> bool:
    """Whether a directory has the same network and codebook already."""
    try:
        arrays, _ = storage.read(directory)
    except CheckpointError:
        return False
    mine = tokenizer.arrays()
    return mine.keys() == arrays.keys() and all(np.array_equal(mine[name], arrays[name]) for name in mine)


def _evaluate(run: Run) -> None:
    stop_when_asked()
    experiment = run.experiment
    if not run.tokenizers:
        name = run.options.tokenizer or layout.current_tokenizer(run.workdir)
        run.tokenizers[name] = Tokenizer.load(layout.tokenizer_of(run.workdir, name))
    for (name, tokenizer), split in itertools.product(run.tokenizers.items(), experiment.config.eval.splits):
        data = f"{experiment.data_name}-{split}"
        results, counts, kept = evaluate(
            tokenizer,
            experiment.examples(split),
            experiment.scorer(),
            name=data,
            num_kept=experiment.config.eval.num_pictures,
        )
        results |= {
            "data": {"name": data, "digest": experiment.digest(split), "path": experiment.config.data.path},
            "size": experiment.modality.eval_size,
            "tokenizer": {"name": name, "sha256": storage.sha256(run.workdir / layout.TOKENIZERS / name)},
        }
        run.results[split] = results
        if results["cvu"] < _LOW_CVU * results["cvu_ceiling"]:
            _LOG.warning(
                "%s uses %.1f%% of its %d codes in effect (CVU) on %s: the latents have collapsed; lower "
                "train.learning_rate, or train with another quantizer",
                name,
                100 * results["cvu"],
                tokenizer.codebook_size,
                data,
            )
        if processes.is_first():
            results |= {"machine": machine(), "config": experiment.config.to_dict()}
            print(write_results(run.workdir, evaluation_name(results), results, counts, kept))


def _report(run: Run) -> None:
    stop_when_asked()
    if processes.is_first():
        pictures = write_report(run.workdir)
        print_summary(run.workdir)
        for path in [
            run.workdir / layout.EVAL,
            *pictures,
            run.workdir / layout.METRICS,
            run.workdir / layout.TOKENIZERS,
        ]:
            print(path)


STAGES: Mapping[str, tuple[Callable[[Run], None], ...]] = {
    "train": (_train, _fit, _evaluate, _report),
    "fit_codebook": (_fit,),
    "refit": (_fit, _evaluate, _report),
    "evaluate": (_evaluate, _report),
    "report": (_report,),
}
"""By mode."""
