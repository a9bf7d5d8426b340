"""The training step of configs/photos.py against the same network and update in PyTorch, on the CPU, taking turns.

python -m benchmarks.train_step [--smoke] [--parts step quantizers input trace paper] [--rounds 12] [--steps 10]

JSON lines, one a part:

- `step`: quantizer `none`. The peer is the same network with the same parameters, loss, clipping and Adam in eager
  PyTorch (`benchmarks/torch_twin.py`), in whichever memory format is faster here. Exits with 1 if reconstruction, loss,
  gradient norm or the losses of further updates differ: then the work is not the same.
- `quantizers`: `none`, `vp` and `fsp` at K = 1024, all ours.
- `input`: how long `next` takes on an iterator alone, and how long the training loop waits for it in a short run.
- `trace`: the share of perturbation in the step of `vp` at K = 1024, see `measure_trace`.
- `paper`: how long the step of the paper's 256 x 256 network compiles, and the memory it needs. Nothing is run.

The program is the one that `training/loop.py` compiles, with the same XLA flag. Sides take turns, a block of steps
each; medians of blocks. Blocks in which other processes took more than a tenth of a core are dropped and counted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import reporting, smoke
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.images import pixels
from vpvae_jax.runtime import environment
from vpvae_jax.training import loop
from vpvae_jax.training.metric_log import read_metrics

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "photos.py"
PARTS = ("step", "quantizers", "input", "trace", "paper")
QUANTIZERS = ("none", "vp", "fsp")
CODEBOOK_SIZE = 1024
PAPER = {
    "model.channels": 128,
    "model.channel_multipliers": (1, 2, 2, 4),
    "model.num_res_blocks": 2,
    "model.attention_levels": (3,),
    "model.middle_attention": True,
    "model.norm": "group",
    "model.z_channels": 4,
    "data.crop": 256,
    "train.batch_size": 8,
}
MAX_FOREIGN_CORES = 0.1
MAX_DIFFERENCE = 1e-3  # relative, of what both sides compute
NUM_CHECKED_UPDATES = 5
_MIN_BLOCKS = 3


class Scale(NamedTuple):
    """How much is measured, of which network."""

    rounds: int = 12
    steps: int = 10  # updates a block
    input_batches: int = 200
    loop_steps: int = 100
    traced_steps: int = 10
    traces: int = 7
    codebook_size: int = CODEBOOK_SIZE
    values: Mapping[str, object] = {}  # settings that differ from the config
    paper: Mapping[str, object] = PAPER

    def experiment(self, quantizer: str, values: Mapping[str, object] | None = None) -> Experiment:
        """Assemble the run of a quantizer; `values` come after those of the scale."""
        argument = f"quantizer={quantizer}"
        if quantizer != "none":
            argument += f",codebook_size={self.codebook_size}"
        return Experiment(load_config(CONFIG, argument, {**self.values, **(values or {})}))


SMOKE = Scale(
    rounds=1,
    steps=1,
    input_batches=4,
    loop_steps=4,
    traced_steps=1,
    traces=1,
    codebook_size=16,
    values=smoke.NETWORK,
    paper=smoke.NETWORK,
)


class Ours:
    """The program of an experiment, its state, and a batch."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.program = loop.compile_program(experiment)
        self.restart()
        side = experiment.config.data.crop
        shape = (experiment.config.train.batch_size, side, side, 3)
        self.images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def restart(self) -> None:
        """Go back to the state before the first update."""
        self.state = loop.new_state(self.experiment, self.program.state_sharding)

    def set_params(self, params) -> None:
        """Replace all parameters of the state."""
        self.state = self.state._replace(params=jax.device_put(params, self.program.state_sharding.params))

    def step(self) -> dict[str, jax.Array]:
        """Take one update, dispatched as the loop does."""
        images = jax.device_put(self.images, self.program.batch_sharding)
        self.state, metrics = self.program.step(self.state, self.program.frozen, images)
        return metrics

    def steps(self, num: int) -> None:
        """Take so many updates, finished on return."""
        for _ in range(num):
            self.step()
        jax.block_until_ready(self.state)


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default all but paper; with --smoke all")
    parser.add_argument("--rounds", type=int, default=Scale().rounds)
    parser.add_argument("--steps", type=int, default=Scale().steps, help="updates a block")
    given = parser.parse_args(argv)
    scale = SMOKE if given.smoke else Scale(rounds=given.rounds, steps=given.steps)
    jax.config.update("jax_platforms", "cpu")
    ours = functools.cache(lambda quantizer: Ours(scale.experiment(quantizer)))  # each is compiled once
    measures: Mapping[str, Callable[[], dict[str, object]]] = {
        "step": lambda: measure_step(scale, ours("none")),
        "quantizers": lambda: measure_quantizers(scale, {name: ours(name) for name in QUANTIZERS}),
        "input": lambda: measure_input(scale),
        "trace": lambda: measure_trace(scale, ours("vp")),
        "paper": lambda: measure_paper(scale),
    }
    try:
        for part in given.parts or (PARTS if given.smoke else PARTS[:-1]):
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for JSON lines, not for TFDS and the loop
                line = measures[part]()
            reporting.write(line)
    except (DifferentWorkError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class DifferentWorkError(Exception):
    """The peer does not compute what we compute."""


def measure_step(scale: Scale, ours: Ours) -> dict[str, object]:
    """Measure the seconds a step of ours and of PyTorch's."""
    try:
        import torch

        from benchmarks import torch_twin
    except ImportError as error:
        raise ImportError("PyTorch is missing, so there is no peer: pip install '.[benchmark]'") from error
    torch.set_num_threads(os.cpu_count() or 1)
    ours.restart()
    ours.set_params(_disturbed(ours.state.params))
    params = jax.device_get(ours.state.params["network"])
    config = ours.experiment.config
    num_updates = NUM_CHECKED_UPDATES + (scale.rounds + 2) * scale.steps
    rates = np.asarray(ours.experiment.schedule(np.arange(num_updates)), np.float64).tolist()

    def peer(memory_format):
        model = torch_twin.Autoencoder(
            channels=config.model.channels,
            multipliers=tuple(config.model.channel_multipliers),
            num_res_blocks=config.model.num_res_blocks,
            z_channels=config.model.z_channels,
            latent_dim=ours.experiment.quantizer.latent_dim,
        )
        model.load(params)
        model = model.to(memory_format=memory_format)
        step = torch_twin.make_train_step(
            model,
            l1_weight=config.loss.l1_weight,
            clip_norm=config.train.clip_norm,
            learning_rate=lambda number: rates[number],
            betas=(config.train.adam_b1, config.train.adam_b2),
            memory_format=memory_format,
        )
        return model, step

    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    peers = {name: peer(memory_format) for name, memory_format in formats.items()}
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    difference = _check_same_work(torch, ours, peers, params, num_params)

    def blocks_of(step):
        def block(num):
            for _ in range(num):
                step(ours.images)

        return block

    sides = {"ours": ours.steps} | {name: blocks_of(step) for name, (_, step) in peers.items()}
    seconds, about = take_turns(sides, scale.rounds, scale.steps)
    fastest = min(peers, key=lambda name: seconds[name])
    return {
        "what": "step: forward, backward, clipping, Adam; configs/photos.py without quantizer",
        "batch_size": config.train.batch_size,
        "crop": config.data.crop,
        "num_parameters": num_params,
        "seconds": seconds["ours"],
        "peer": f"the same in eager PyTorch, {fastest}, torch.optim.Adam(fused=True)",
        "peer_version": torch.__version__,
        "peer_seconds": seconds[fastest],
        "peer_seconds_by_memory_format": {name: seconds[name] for name in peers},
        "ratio_of_seconds": seconds["ours"] / seconds[fastest],
        "max_relative_difference": difference,
        **about,
    }


def _disturbed(params):
    """Add noise to all parameters: scales and biases start at 1 and 0, which would hide that they are mixed up."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + rng.normal(0, 0.02, leaf.shape).astype(np.float32), params)


def _check_same_work(torch, ours: Ours, peers, params, num_params: int) -> float:
    """Largest relative difference of reconstruction, and of loss and gradient norm of the first updates."""
    network = ours.experiment.network
    signal = np.asarray(pixels.to_signal(ours.images))
    expected = np.asarray(jax.jit(lambda p, x: network.apply({"params": p}, x))(params, signal))
    differences = {}
    for name, (model, _) in peers.items():
        peer_params = sum(parameter.numel() for parameter in model.parameters())
        if peer_params != num_params:
            raise DifferentWorkError(f"the peer has {peer_params} parameters, ours {num_params}")
        with torch.no_grad():
            actual = model(torch.from_numpy(signal).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        differences[f"reconstruction, {name}"] = np.abs(actual - expected).max() / np.abs(expected).max()
    for update in range(NUM_CHECKED_UPDATES):
        metrics = jax.device_get(ours.step())
        for name, (_, step) in peers.items():
            peer_metrics = step(ours.images)
            for metric in ("loss", "gradient_norm"):
                relative = abs(float(peer_metrics[metric]) / float(metrics[metric]) - 1)
                differences[f"{metric} of update {update + 1}, {name}"] = relative
    worst = max(differences, key=lambda what: differences[what])
    if not differences[worst] <= MAX_DIFFERENCE:
        raise DifferentWorkError(
            f"{worst} differs by {differences[worst]:.2g} of its value, expected at most {MAX_DIFFERENCE}: "
            f"the work is not the same"
        )
    return float(differences[worst])


def measure_quantizers(scale: Scale, ours: Mapping[str, Ours]) -> dict[str, object]:
    """Measure the seconds a step of ours by quantizer."""
    sides = {name: ours[name].steps for name in QUANTIZERS}
    seconds, about = take_turns(sides, scale.rounds, scale.steps)
    return {
        "what": "step by quantizer, configs/photos.py",
        "codebook_size": scale.codebook_size,
        "seconds": {name: seconds[name] for name in QUANTIZERS},
        "ratio_of_seconds_to_fsp": {name: seconds[name] / seconds["fsp"] for name in QUANTIZERS},
        **about,
    }


def measure_input(scale: Scale) -> dict[str, object]:
    """Measure the seconds a batch of the input pipeline alone, and its share of the loop's time as the loop logs it."""
    values = {
        "train.num_steps": scale.loop_steps,
        "train.warmup_steps": 0,
        "checkpoint.every": scale.loop_steps,
        "log.every": max(1, scale.loop_steps // 10),
    }
    experiment = scale.experiment("none", values)
    config = experiment.config
    batches = experiment.batches(
        config.data.train_split, batch_size=config.train.batch_size, crop=config.data.crop, seed=config.seed
    )
    alone = []
    for _ in range(scale.input_batches):
        start = time.perf_counter()
        next(batches)
        alone.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(experiment, pathlib.Path(workdir))
        lines = read_metrics(pathlib.Path(workdir))[1:]  # the first decodes the photographs
    step_seconds = config.train.batch_size / statistics.median(line["examples_per_second"] for line in lines)
    batch_seconds = statistics.mean(alone[len(alone) // 4 :])
    return {
        "what": "input pipeline of configs/photos.py: next(iterator) alone, and how long the loop waits for it",
        "batch_size": config.train.batch_size,
        "crop": config.data.crop,
        "batch_seconds_alone": batch_seconds,
        "loop_step_seconds": step_seconds,
        "share_alone": batch_seconds / step_seconds,
        "share_waited_in_loop": statistics.median(line["input_share"] for line in lines),
        "num_steps": scale.loop_steps,
    }


def measure_trace(scale: Scale, ours: Ours) -> dict[str, object]:
    """Measure the share of perturbation in the step of `vp`, from the events of a profiler trace.

    `quantizers/vp.py` names two scopes: `perturbation`, the draws, both searches and the acceptance, and
    `memory_push`. The compiled program names the scope of each of its instructions; a fusion belongs to a scope if
    anything in it does. `jax.profiler.trace` records when each instruction ran, on which thread, a host call (the
    search in a k-d tree) like any other. The share is the time in which at least one instruction of the scope ran,
    whatever ran beside it, over the time of all traced steps: events that overlap or nest count once. XLA's products
    and convolutions may continue after their event ended, so the share is exact for host calls and elementwise work and
    a lower bound for a search made of products; the time of `vp` beyond `none` in the part `quantizers` is the check.
    Median of several traces.
    """
    num_steps = scale.traced_steps
    ours.steps(num_steps)
    text = ours.program.step.as_text()
    scopes = {scope: instructions_in_scope(text, scope) for scope in ("perturbation", "memory_push")}
    kept, disturbed = [], []
    for _ in range(scale.traces):
        untraced, _ = timed(lambda: ours.steps(num_steps))
        seconds, is_quiet, events = _traced(lambda: ours.steps(num_steps))
        numbers = {"untraced_seconds_a_step": untraced / num_steps, "seconds_a_step": seconds / num_steps}
        for scope, names in scopes.items():
            spans = [(begin, end) for name, begin, end in events if name in names]
            numbers[f"share_{scope}"] = covered(spans) / 1e9 / seconds
        (kept if is_quiet else disturbed).append(numbers)
    usable = kept if len(kept) >= _MIN_BLOCKS else kept + disturbed
    return {
        "what": "share of the step of vp in which its perturbation runs, from traces, configs/photos.py",
        "codebook_size": scale.codebook_size,
        **{name: statistics.median(numbers[name] for numbers in usable) for name in usable[0]},
        "steps_a_trace": num_steps,
        "traces": scale.traces,
        "traces_dropped": len(disturbed),
        "is_quiet": usable is kept,
    }


def _traced(work: Callable[[], None]) -> tuple[float, bool, list[tuple[str, float, float]]]:
    """Trace some work: its seconds, whether the machine was quiet, and the events."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            seconds, is_quiet = timed(work)
        (path,) = pathlib.Path(directory).glob("**/*.xplane.pb")
        return seconds, is_quiet, list(_instruction_events(jax.profiler.ProfileData.from_file(str(path))))


def _instruction_events(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, float, float]]:
    """Yield name, begin and end in nanoseconds of each instruction that XLA ran."""
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    yield str(name), event.start_ns, event.start_ns + event.duration_ns


def instructions_in_scope(text: str, scope: str) -> set[str]:
    """Return the names of a compiled program's instructions in a named scope, and of fusions that hold one."""
    owner, inside, calls = "", set(), {}
    computations = set()
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            owner = header[1]
        elif instruction := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            if called := re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
                calls[instruction[1]] = called[1]
            if re.search(rf'op_name="[^"]*\b{scope}\b', line):
                inside.add(instruction[1])
                computations.add(owner)
    entry = {name for name, called in calls.items() if called in computations}
    return inside | entry


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def measure_paper(scale: Scale) -> dict[str, object]:
    """Compile the step of the paper's network from shapes alone."""
    experiment = scale.experiment("vp", scale.paper)
    program = loop.compile_program(experiment)
    return {
        "what": "compilation of the step of the paper's VQGAN (f = 8), quantizer vp; nothing is run",
        "codebook_size": scale.codebook_size,
        "batch_size": experiment.config.train.batch_size,
        "crop": experiment.config.data.crop,
        "compile_seconds": program.compile_seconds,
        "memory": loop.memory_need(program.step),
    }


def take_turns(sides: dict[str, Callable[[int], None]], rounds: int, steps: int) -> tuple[dict[str, float], dict]:
    """Measure median seconds a step of each side, after one warm-up block of each, and how quiet the machine was.

    Where a side has too few quiet blocks all of them count, for every side, and `is_quiet` is False.
    """
    kept: dict[str, list[float]] = {name: [] for name in sides}
    disturbed: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(steps)
    for _ in range(rounds):
        for name, side in sides.items():
            seconds, is_quiet = timed(lambda side=side: side(steps))
            (kept if is_quiet else disturbed)[name].append(seconds / steps)
    is_quiet = all(len(blocks) >= _MIN_BLOCKS for blocks in kept.values())
    blocks = kept if is_quiet else {name: kept[name] + disturbed[name] for name in sides}
    about = {
        "rounds": rounds,
        "steps_a_block": steps,
        "blocks_dropped": {name: len(disturbed[name]) for name in sides},
        "is_quiet": is_quiet,
    }
    return {name: statistics.median(blocks[name]) for name in sides}, about


def timed(work: Callable[[], None]) -> tuple[float, bool]:
    """Measure the seconds of some work, and whether other processes left the machine to it."""
    busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    foreign_cores = (_busy_seconds() - busy - (time.process_time() - own)) / seconds
    return seconds, foreign_cores <= MAX_FOREIGN_CORES


def _busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used, 0 where /proc does not tell."""
    path = pathlib.Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, path.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main())
