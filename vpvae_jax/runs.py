"""The stages of a run, as a table: train, fit the codebook, evaluate, report."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import jax

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.schema import Config
from vpvae_jax.evaluation.evaluate import evaluate
from vpvae_jax.evaluation.records import write_results
from vpvae_jax.reporting.report import print_summary, write_report
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.environment import machine
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.files import write_json
from vpvae_jax.runtime.preemption import stop_on_sigterm
from vpvae_jax.tokenizer import Tokenizer
from vpvae_jax.training.fit import fit_codebook
from vpvae_jax.training.loop import train


@dataclasses.dataclass
class Run:
    """A run on its way through the stages."""

    experiment: Experiment
    workdir: pathlib.Path
    tokenizer: Tokenizer | None = None  # once it is fitted or loaded


def assemble(config: Config | None, workdir: pathlib.Path, mode: str) -> Experiment:
    """The experiment that a mode works with in a work directory.

    Args:
        config: None for the one that the work directory was trained with (not for `train`).
        workdir: of the run.
        mode: a key of `STAGES`.

    Raises:
        UserError: no config, one that cannot work, or another than that of the training.
    """
    if config is None and mode == "train":
        raise ConfigError("no config: expected --config=photos or another file with get_config()")
    if config is None:
        config = layout.read_config(workdir)
    processes.check_same(
        {"mode": mode} | {key: repr(value) for key, value in config.flatten().items()},
        "was started with other settings (give all the same command but for --process_id)",
    )
    processes.check_same_workdir(workdir)
    experiment = Experiment(config)
    if mode != "train" or layout.has_results(workdir):
        layout.check_same_config(config, workdir, same_training=mode in ("train", "fit_codebook"))
    return experiment if mode == "train" else Experiment(layout.with_stored_training(config, workdir))


def run(experiment: Experiment, workdir: pathlib.Path, mode: str) -> None:
    """Do the stages of a mode. All processes of a run work, each on its share; the first one writes.

    Args:
        experiment: see `assemble`.
        workdir: made by `train` if it does not exist.
        mode: a key of `STAGES`.

    Raises:
        UserError: what a user can fix.
    """
    state = Run(experiment, workdir)
    for stage in STAGES[mode]:
        stage(state)
    if mode == "train" and processes.is_first():
        assert state.tokenizer is not None
        write_json(workdir / layout.DONE, {"step": state.tokenizer.step})
    processes.wait_for_all()


def _train(run: Run) -> None:
    run.experiment.check_data()
    with run.experiment.scorer():
        pass  # what its metrics need exists
    run.workdir.mkdir(parents=True, exist_ok=True)
    with jax.debug_nans(run.experiment.config.debug.nans):
        train(run.experiment, run.workdir)


def _fit(run: Run) -> None:
    stop_on_sigterm()
    run.tokenizer = fit_codebook(run.experiment, run.workdir)
    if processes.is_first():
        run.tokenizer.save(run.workdir / layout.TOKENIZER)


def _evaluate(run: Run) -> None:
    stop_on_sigterm()
    experiment = run.experiment
    tokenizer = run.tokenizer or Tokenizer.load(run.workdir / layout.TOKENIZER)
    for split in experiment.config.eval.splits:
        name = f"{experiment.data_name}-{split}"
        results, counts, kept = evaluate(
            tokenizer,
            experiment.examples(split),
            experiment.scorer(),
            name=name,
            num_kept=experiment.config.eval.num_pictures,
        )
        if processes.is_first():
            results |= {"machine": machine(), "config": experiment.config.to_dict()}
            print(write_results(run.workdir, name, results, counts, kept))


def _report(run: Run) -> None:
    stop_on_sigterm()
    if processes.is_first():
        pictures = write_report(run.workdir)
        print_summary(run.workdir)
        for path in [
            run.workdir / layout.EVAL,
            *pictures,
            run.workdir / layout.METRICS,
            run.workdir / layout.TOKENIZER,
        ]:
            print(path)


STAGES: Mapping[str, tuple[Callable[[Run], None], ...]] = {
    "train": (_train, _fit, _evaluate, _report),
    "fit_codebook": (_fit,),
    "evaluate": (_evaluate, _report),
    "report": (_report,),
}
"""By mode."""
