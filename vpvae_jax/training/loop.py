"""The training loop: one compiled step over a mesh of all devices of all processes."""

from __future__ import annotations

import functools
import pathlib
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.errors import CheckpointError, DataError
from vpvae_jax.runtime.files import read_json, write_json
from vpvae_jax.runtime.preemption import Preemption
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.profiling import Trace
from vpvae_jax.training.progress import Progress
from vpvae_jax.training.sharding import state_shardings
from vpvae_jax.training.state import TrainState, init_state
from vpvae_jax.training.step import make_train_step
from vpvae_jax.training.validation import Validation
from vpvae_jax.training.watchdogs import StallWatch, Watchdogs

_GIBIBYTE = 2**30
_shapes: weakref.WeakKeyDictionary[Experiment, TrainState] = weakref.WeakKeyDictionary()


class Program(NamedTuple):
    """The compiled step of a run and the shardings of its arguments."""

    step: Any  # jax.stages.Compiled: (state, frozen, batch) -> state, metrics; the state is donated
    function: Callable[..., Any]  # what was compiled
    frozen: Any  # parameters of the reconstruction loss, on the mesh
    state_sharding: TrainState  # of NamedShardings
    batch_sharding: NamedSharding
    compile_seconds: float


def train(experiment: Experiment, workdir: pathlib.Path, params: dict[str, Any] | None = None) -> None:
    """Train up to `train.num_steps`, from the newest checkpoint in the work directory if there is one.

    Args:
        experiment: the assembled run.
        workdir: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
        params: parameters of the network to begin with, see `warm_start.load`; not used where there is a checkpoint.

    Raises:
        UserError: a setting, the data, the disk or a loss that is not finite; finished checkpoints stay.
    """
    config = experiment.config
    source = experiment.source(config.data.train_split)
    iterator = experiment.batches(
        config.data.train_split, batch_size=config.train.batch_size, crop=config.data.crop, seed=config.seed
    )
    with Checkpoints(workdir / layout.CHECKPOINTS, config.checkpoint.keep, config.checkpoint.keep_best) as checkpoints:
        start_step = checkpoints.latest_good_step()
        data = {"train": source.identity(), "digest": experiment.digest(config.data.train_split)}
        _check_same_data(data, workdir / layout.DATA, is_resuming=start_step is not None)
        Preemption.begin_at(start_step or 0)
        if processes.is_first():
            (workdir / layout.DONE).unlink(missing_ok=True)
        if start_step is not None:
            if start_step >= config.train.num_steps:
                return
            checkpoints.quarantine(after=start_step, target=workdir / layout.DAMAGED)
        if processes.is_first():
            checkpoints.check_room(abstract_state(experiment))
            begin = f"resuming from step {start_step} of {config.train.num_steps}; " if start_step is not None else ""
            print(f"{begin}compiling the step", flush=True)
        program = compile_program(experiment)
        if config.debug.nans:
            program = program._replace(step=jax.jit(program.function))  # which JAX can run again by operation
        elif processes.is_first():
            print(f"compiled the step in {program.compile_seconds:.1f} s; {memory_need(program.step)}", flush=True)
        if start_step is None:
            state = new_state(experiment, program.state_sharding, params)
        else:
            state = checkpoints.restore(abstract_state(experiment, program.state_sharding), iterator, start_step)
        _run(program, state, iterator, checkpoints, experiment, workdir)


def compile_program(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Program:
    """Compile the step of a run over a mesh of devices, from shapes alone: nothing is computed.

    Args:
        experiment: the assembled run.
        devices: default all of all processes. Devices of another machine, as `jax.experimental.topologies` describes
            them, tell what memory the step needs there; the program cannot be run, and `frozen` stays here.
    """
    train, modality, loss = experiment.config.train, experiment.modality, experiment.loss
    train_step = make_train_step(
        network=experiment.network,
        quantizer=experiment.quantizer,
        optimizer=experiment.optimizer,
        to_signal=modality.to_signal,
        reconstruction_loss=loss.function,
        ema_decay=train.ema_decay,
        accumulation_steps=train.accumulation_steps,
    )
    mesh = processes.data_mesh(devices)
    replicated, batch_sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P(processes.DATA_AXIS))
    state_sharding = state_shardings(abstract_state(experiment), mesh, shard_params=train.shard_params)
    jitted_step = jax.jit(
        train_step,
        in_shardings=(state_sharding, replicated, batch_sharded),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )
    batch = modality.batch_shape(train.batch_size, experiment.config.data.crop)
    abstract_frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), loss.params)
    start = time.perf_counter()
    # The search for neighbours reads the mesh. An abstract one: a concrete one would run eager code on its devices.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jitted_step.lower(abstract_state(experiment), abstract_frozen, batch).compile()
    frozen = processes.put_copy(loss.params, replicated) if devices is None else loss.params
    return Program(compiled, train_step, frozen, state_sharding, batch_sharded, time.perf_counter() - start)


def memory_need(compiled: jax.stages.Compiled) -> str:
    """What a device needs to run a compiled program by XLA's own analysis, as words for the user."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return f"XLA's {jax.default_backend()} backend does not tell how much memory it needs"
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,  # others take an argument's place
        "temporaries": analysis.temp_size_in_bytes,
    }
    words = ", ".join(f"{name} {size / _GIBIBYTE:.3g}" for name, size in parts.items())
    return f"by XLA's analysis it needs {sum(parts.values()) / _GIBIBYTE:.3g} GiB a device ({words})"


def new_state(
    experiment: Experiment, shardings: TrainState | None = None, params: dict[str, Any] | None = None
) -> TrainState:
    """The state before the first step of a run, on one device unless shardings are given.

    Args:
        experiment: the assembled run.
        shardings: of the state.
        params: of modules of the network, in place of random ones.
    """
    initialize = _state_initializer(experiment)
    # Runs once: on CPU, XLA takes ten times as long to optimize the random number generators as to run them.
    init = jax.jit(
        lambda: initialize(jax.random.key(experiment.config.seed)),
        out_shardings=shardings,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init()
    if not params:
        return state

    def with_given(tree: dict[str, Any]) -> dict[str, Any]:
        network = dict(tree["network"])
        for name, given in params.items():
            network[name] = jax.tree.map(_put_like, given, network[name])
        return tree | {"network": network}

    ema_params = None if state.ema_params is None else with_given(state.ema_params)
    return state._replace(params=with_given(state.params), ema_params=ema_params)


def _put_like(new: Any, old: jax.Array) -> jax.Array:
    return processes.put_copy(np.array(new), old.sharding)  # a copy: the step that uses it up may not own `new`


def abstract_state(experiment: Experiment, shardings: TrainState | None = None) -> TrainState:
    """Shapes and types of `new_state`, without computing it; traced once for an experiment."""
    if experiment not in _shapes:
        key = jax.random.key(experiment.config.seed)
        _shapes[experiment] = jax.eval_shape(_state_initializer(experiment), key)
    shapes = _shapes[experiment]
    if shardings is None:
        return shapes
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def _state_initializer(experiment: Experiment) -> Callable[[jax.Array], TrainState]:
    return functools.partial(
        init_state,
        network=experiment.network,
        quantizer=experiment.quantizer,
        optimizer=experiment.optimizer,
        signal_shape=experiment.signal_shape,
        use_ema=experiment.config.train.ema_decay > 0,
    )


def _check_same_data(data: dict[str, str], path: pathlib.Path, *, is_resuming: bool) -> None:
    """A resumed run continues the order of the examples; with other data it would silently be another run."""
    stored = read_json(path) if is_resuming and path.exists() else data
    if stored["train"] != data["train"]:
        raise DataError(
            f"the training set has changed since the checkpoint ({data['train']}, was {stored['train']}): "
            f"restore it, or train in a new --workdir"
        )
    if stored.get("digest", data["digest"]) != data["digest"]:
        raise DataError(
            "the training set has changed since the checkpoint (as many examples of the same names, but one of those "
            "compared has other content): restore it, or train in a new --workdir"
        )
    num_processes = jax.process_count()
    if is_resuming and stored.get("processes", 1) != num_processes:
        raise CheckpointError(
            f"the checkpoint is of a run of {stored.get('processes', 1)} processes, each with its own place in the "
            f"data, this run has {num_processes}: start as many, or train in a new --workdir"
        )
    if processes.is_first():
        write_json(path, data | {"processes": num_processes})


def _run(program, state, iterator, checkpoints, experiment: Experiment, workdir) -> None:
    config, modality = experiment.config, experiment.modality
    start_step, num_steps = int(state.step), config.train.num_steps
    tokens_per_batch = config.train.batch_size * modality.tokens(config.data.crop)
    progress = Progress(
        workdir,
        start_step=start_step,
        num_steps=num_steps,
        batch_size=config.train.batch_size,
        unit=modality.unit,
        watchdogs=Watchdogs(experiment.quantizer.codebook_size, tokens_per_batch),
        learning_rate=lambda step: experiment.schedule(jnp.asarray(step)),
        is_writing=processes.is_first(),
    )
    validation = Validation(experiment)
    trace = Trace(workdir / layout.PROFILE, after=start_step + 1, num_steps=config.debug.profile_steps)
    with progress, Preemption() as preemption, StallWatch() as input_watch, trace:
        for step in range(start_step + 1, num_steps + 1):
            # The step is dispatched and runs while the next batch is read and metrics of earlier steps are logged.
            input_watch.begin()
            batch = next(iterator)
            input_seconds = input_watch.end()
            state, metrics = program.step(state, program.frozen, processes.put_rows(batch, program.batch_sharding))
            progress.report()
            progress.add(metrics, input_seconds)
            is_stopping = preemption.reached(step)
            is_saving = step % config.checkpoint.every == 0 or step == num_steps or is_stopping
            if is_saving or validation.is_due(step) or step % config.log.every == 0:
                progress.end_period(step)
            if validation.is_due(step):
                jax.block_until_ready(metrics)
                began = time.perf_counter()
                scores = validation.score(state, step)
                loss = progress.report(scores, time.perf_counter() - began)
            if is_saving:
                if not validation.is_due(step):
                    loss = progress.report()  # waits for this very step
                # What is not finite was refused by the report and must not be saved.
                checkpoints.save(state, iterator, loss)
            trace.after_step(step, metrics)
            if is_stopping:
                checkpoints.wait()
                raise preemption.stopped(f"saved step {step} of {num_steps}")
        checkpoints.wait()
