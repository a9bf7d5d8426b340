"""The training loop: one jitted step over a mesh of all local devices."""

from __future__ import annotations

import functools
import math
import pathlib
import time
from collections.abc import Callable

import jax
import ml_collections
import tqdm
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax import build
from vpvae_jax import workdir as layout
from vpvae_jax.errors import DataError, TrainingDivergedError
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.metric_log import MetricLog
from vpvae_jax.training.state import TrainState, init_state
from vpvae_jax.training.step import Metrics, make_train_step


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Train up to `config.train.num_steps`, from the newest checkpoint in the work directory if there is one.

    Args:
        config: see `configs/`.
        workdir: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.

    Raises:
        UserError: a setting, the data, the disk or a loss that is not finite; what was checkpointed stays.
    """
    quantizer = build.build_quantizer(config)
    network = build.build_network(config, quantizer)
    optimizer = build.build_optimizer(config)
    train_step = make_train_step(
        network=network,
        quantizer=quantizer,
        optimizer=optimizer,
        l1_weight=config.loss.l1_weight,
        ema_decay=config.train.ema_decay,
    )
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated, batch_sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    jitted_step = jax.jit(
        train_step,
        in_shardings=(replicated, batch_sharded),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )
    source = build.build_source(config, config.data.train_split)
    iterator = build.build_batches(
        config, source, batch_size=config.train.batch_size, crop=config.data.crop, seed=config.seed
    )
    with Checkpoints(workdir / layout.CHECKPOINTS, config.checkpoint.keep) as checkpoints:
        state = jax.device_put(new_state(config), replicated)
        is_resuming = checkpoints.latest_step() is not None
        _check_same_data(source.identity(), workdir / layout.DATA, is_resuming)
        if is_resuming:
            state = checkpoints.restore(state, iterator)
        _run(jitted_step, state, iterator, checkpoints, batch_sharded, config, workdir)


def new_state(config: ml_collections.ConfigDict) -> TrainState:
    """The state before the first step of a config's run."""
    # Runs once: on CPU, XLA takes ten times as long to optimize the random number generators as to run them.
    init = jax.jit(_state_initializer(config), compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(config.seed))


def abstract_state(config: ml_collections.ConfigDict) -> TrainState:
    """Shapes and types of `new_state`, without computing it."""
    return jax.eval_shape(_state_initializer(config), jax.random.key(config.seed))


def _state_initializer(config: ml_collections.ConfigDict) -> Callable[[jax.Array], TrainState]:
    quantizer = build.build_quantizer(config)
    return functools.partial(
        init_state,
        network=build.build_network(config, quantizer),
        quantizer=quantizer,
        optimizer=build.build_optimizer(config),
        image_shape=(config.data.crop, config.data.crop, 3),
        use_ema=config.train.ema_decay > 0,
    )


def _check_same_data(identity: str, path: pathlib.Path, is_resuming: bool) -> None:
    """A resumed run goes on in the order of the images; with others it would silently be another run."""
    stored = layout.read_json(path)["train"] if is_resuming and path.exists() else identity
    if stored != identity:
        raise DataError(
            f"the training set has changed since the checkpoint ({identity}, was {stored}): "
            f"restore it, or train in a new --workdir"
        )
    layout.write_json(path, {"train": identity})


def _run(jitted_step, state, iterator, checkpoints, batch_sharded, config, workdir) -> None:
    start_step, num_steps = int(state.step), config.train.num_steps
    log = MetricLog(workdir, start_step)
    bar = tqdm.tqdm(total=num_steps, initial=start_step, unit="step", desc="training", smoothing=0.1)
    pending: list[Metrics] = []
    since = time.perf_counter()
    try:
        for step in range(start_step + 1, num_steps + 1):
            # The step is dispatched and runs while the next batch is read; figures are fetched every few steps.
            state, metrics = jitted_step(state, jax.device_put(next(iterator), batch_sharded))
            pending.append(metrics)
            is_saving = step % config.checkpoint.every == 0 or step == num_steps
            if is_saving or step % config.log.every == 0:
                values = _mean_of_finite(pending, step)
                now = time.perf_counter()
                values["images_per_second"] = len(pending) * config.train.batch_size / (now - since)
                log.write(step, values)
                _show(bar, len(pending), values)
                pending, since = [], now
            if is_saving:
                checkpoints.save(state, iterator)
    finally:
        bar.close()
        log.close()


def _mean_of_finite(pending: list[Metrics], last_step: int) -> dict[str, float]:
    """Mean figures of the pending steps; the first that is not finite ends the run."""
    fetched = jax.device_get(pending)
    for step, metrics in enumerate(fetched, start=last_step - len(fetched) + 1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise TrainingDivergedError(
                    f"{name} is {metrics[name]} at step {step}: stopped, the last checkpoint is from before; "
                    f"lower train.learning_rate or train.clip_norm, in a new --workdir"
                )
    return {name: float(sum(metrics[name] for metrics in fetched) / len(fetched)) for name in fetched[0]}


def _show(bar: tqdm.tqdm, num_steps: int, values: dict[str, float]) -> None:
    shown = {"loss": f"{values['loss']:.4f}"}
    if "acceptance_rate" in values:
        shown["acceptance"] = f"{values['acceptance_rate']:.2f}"
    shown["images/s"] = f"{values['images_per_second']:.0f}"
    bar.set_postfix(shown, refresh=False)
    bar.update(num_steps)
