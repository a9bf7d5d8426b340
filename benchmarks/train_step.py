"""The training step of configs/photos.py against the same network and update in PyTorch, on the CPU, taking turns.

python -m benchmarks.train_step [--parts step quantizers input trace paper] [--rounds 12] [--steps 10]

JSON lines, one or more a part:

- `step`: quantizer `none`. The peer is the same network with the same parameters, loss, clipping and Adam in eager
  PyTorch (`benchmarks/torch_twin.py`), in whichever memory format is faster here. Exits with 1 if reconstruction, loss,
  gradient norm or the losses of further updates differ: then the work is not the same.
- `quantizers`: `none`, `vp` and `fsp` at K = 1024, all ours.
- `input`: what `next` takes on an iterator alone, and what the training loop waits for it in a short run.
- `trace`: which share of the step of `vp` at K = 1024 is perturbation, see `measure_trace`.
- `paper`: how long the step of the paper's 256 x 256 network compiles and what memory it needs. Nothing is run.

The program is the one that `training/loop.py` compiles, with the same XLA flag. Sides take turns, a block of steps
each; medians of blocks. Blocks in which other processes took more than a tenth of a core are dropped and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import reporting
from vpvae_jax import build, pixels
from vpvae_jax.config_arguments import load_config
from vpvae_jax.host_memory import keep_freed_memory
from vpvae_jax.training import loop
from vpvae_jax.training.metric_log import read_metrics
from vpvae_jax.xla_flags import set_cpu_flags

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
NUM_INPUT_BATCHES = 200
NUM_LOOP_STEPS = 100
NUM_TRACED_STEPS = 10
NUM_TRACES = 7
_MIN_BLOCKS = 3


class Ours:
    """The program of a config, its state, and a batch."""

    def __init__(self, argument: str, overrides: dict[str, object] | None = None):
        self.config = load_config(CONFIG, argument, overrides or {})
        self.program = loop.compile_program(self.config)
        self.state = jax.device_put(loop.new_state(self.config), self.program.state_sharding)
        side = self.config.data.crop
        shape = (self.config.train.batch_size, side, side, 3)
        self.images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def step(self) -> dict[str, jax.Array]:
        """One update, dispatched as the loop does."""
        images = jax.device_put(self.images, self.program.batch_sharding)
        self.state, metrics = self.program.step(self.state, self.program.frozen, images)
        return metrics

    def steps(self, num: int) -> None:
        """So many updates, finished on return."""
        for _ in range(num):
            self.step()
        jax.block_until_ready(self.state)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["step", "quantizers", "input", "trace"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="updates a block")
    arguments = parser.parse_args()
    keep_freed_memory()
    set_cpu_flags()
    jax.config.update("jax_platforms", "cpu")
    measures = {
        "step": lambda: measure_step(arguments.rounds, arguments.steps),
        "quantizers": lambda: measure_quantizers(arguments.rounds, arguments.steps),
        "input": measure_input,
        "trace": measure_trace,
        "paper": measure_paper,
    }
    try:
        for part in arguments.parts:
            reporting.write(measures[part]())
    except (DifferentWorkError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class DifferentWorkError(Exception):
    """The peer does not compute what we compute."""


def measure_step(rounds: int, steps: int) -> dict[str, object]:
    """Seconds a step of ours and of PyTorch's."""
    try:
        import torch

        from benchmarks import torch_twin
    except ImportError as error:
        raise ImportError("PyTorch is missing, so there is no peer: pip install '.[benchmark]'") from error
    torch.set_num_threads(os.cpu_count() or 1)
    ours = Ours("quantizer=none")
    ours.state = ours.state._replace(params=jax.device_put(_disturbed(ours.state.params), ours.program.state_sharding))
    params = jax.device_get(ours.state.params["network"])
    config = ours.config
    num_updates = NUM_CHECKED_UPDATES + (rounds + 2) * steps
    rates = np.asarray(build.build_schedule(config)(np.arange(num_updates)), np.float64).tolist()

    def peer(memory_format):
        model = torch_twin.Autoencoder(
            channels=config.model.channels,
            multipliers=tuple(config.model.channel_multipliers),
            num_res_blocks=config.model.num_res_blocks,
            z_channels=config.model.z_channels,
            latent_dim=config.quantizer.latent_dim,
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
    seconds, about = take_turns(sides, rounds, steps)
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
    """Parameters all of which matter: scales and biases start at 1 and 0, which would hide that they are mixed up."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + rng.normal(0, 0.02, leaf.shape).astype(np.float32), params)


def _check_same_work(torch, ours: Ours, peers, params, num_params: int) -> float:
    """Largest relative difference of reconstruction, and of loss and gradient norm of the first updates."""
    network = build.build_network(ours.config, build.build_quantizer(ours.config))
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
            for figure in ("loss", "gradient_norm"):
                relative = abs(float(peer_metrics[figure]) / float(metrics[figure]) - 1)
                differences[f"{figure} of update {update + 1}, {name}"] = relative
    worst = max(differences, key=lambda what: differences[what])
    if not differences[worst] <= MAX_DIFFERENCE:
        raise DifferentWorkError(
            f"{worst} differs by {differences[worst]:.2g} of its value, expected at most {MAX_DIFFERENCE}: "
            f"the work is not the same"
        )
    return float(differences[worst])


def measure_quantizers(rounds: int, steps: int) -> dict[str, object]:
    """Seconds a step of ours by quantizer."""
    sides = {name: Ours(f"quantizer={name},codebook_size={CODEBOOK_SIZE}").steps for name in QUANTIZERS}
    seconds, about = take_turns(sides, rounds, steps)
    return {
        "what": "step by quantizer, configs/photos.py",
        "codebook_size": CODEBOOK_SIZE,
        "seconds": {name: seconds[name] for name in QUANTIZERS},
        "ratio_of_seconds_to_fsp": {name: seconds[name] / seconds["fsp"] for name in QUANTIZERS},
        **about,
    }


def measure_input() -> dict[str, object]:
    """Seconds a batch of the input pipeline alone, and its share of the loop's time as the loop itself logs it."""
    overrides = {
        "train.num_steps": NUM_LOOP_STEPS,
        "checkpoint.every": NUM_LOOP_STEPS,
        "log.every": NUM_LOOP_STEPS // 10,
    }
    config = load_config(CONFIG, "quantizer=none", overrides)
    source = build.build_source(config, config.data.train_split)
    batches = build.build_batches(
        config, source, batch_size=config.train.batch_size, crop=config.data.crop, seed=config.seed
    )
    alone = []
    for _ in range(NUM_INPUT_BATCHES):
        start = time.perf_counter()
        next(batches)
        alone.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(sys.stderr):
        loop.train(config, pathlib.Path(workdir))
        lines = read_metrics(pathlib.Path(workdir))[1:]  # the first decodes the photographs
    step_seconds = config.train.batch_size / statistics.median(line["examples_per_second"] for line in lines)
    batch_seconds = statistics.mean(alone[NUM_INPUT_BATCHES // 4 :])
    return {
        "what": "input pipeline of configs/photos.py: next(iterator) alone, and what the loop waits for it",
        "batch_size": config.train.batch_size,
        "crop": config.data.crop,
        "batch_seconds_alone": batch_seconds,
        "loop_step_seconds": step_seconds,
        "share_alone": batch_seconds / step_seconds,
        "share_waited_in_loop": statistics.median(line["input_share"] for line in lines),
        "num_steps": NUM_LOOP_STEPS,
    }


def measure_trace() -> dict[str, object]:
    """Share of the step of `vp` that is perturbation, from the events of a profiler trace.

    `quantizers/vp.py` names two scopes: `perturbation`, the draws, both searches and the acceptance, and
    `memory_push`. The compiled program says for each of its instructions in which scope it was written; a fusion
    belongs to a scope if anything in it does. `jax.profiler.trace` records when each instruction ran, on which thread,
    a call of the host (the search in a k-d tree) like any other. The share is the time in which at least one
    instruction of the scope ran, whatever ran beside it, over the time of all traced steps: events that overlap or
    nest count once. XLA's products and convolutions may go on after their event ended, so the share is exact for calls
    of the host and elementwise work, a lower bound for a search made of products; what `vp` takes beyond `none` in the
    part `quantizers` is the check. Median of several traces.
    """
    ours = Ours(f"quantizer=vp,codebook_size={CODEBOOK_SIZE}")
    ours.steps(NUM_TRACED_STEPS)
    text = ours.program.step.as_text()
    scopes = {scope: instructions_in_scope(text, scope) for scope in ("perturbation", "memory_push")}
    kept, disturbed = [], []
    for _ in range(NUM_TRACES):
        untraced, _ = timed(lambda: ours.steps(NUM_TRACED_STEPS))
        seconds, is_quiet, events = _traced(lambda: ours.steps(NUM_TRACED_STEPS))
        figures = {"untraced_seconds_a_step": untraced / NUM_TRACED_STEPS, "seconds_a_step": seconds / NUM_TRACED_STEPS}
        for scope, names in scopes.items():
            spans = [(begin, end) for name, begin, end in events if name in names]
            figures[f"share_{scope}"] = covered(spans) / 1e9 / seconds
        (kept if is_quiet else disturbed).append(figures)
    usable = kept if len(kept) >= _MIN_BLOCKS else kept + disturbed
    return {
        "what": "share of the step of vp in which its perturbation runs, from traces, configs/photos.py",
        "codebook_size": CODEBOOK_SIZE,
        **{name: statistics.median(figures[name] for figures in usable) for name in usable[0]},
        "steps_a_trace": NUM_TRACED_STEPS,
        "traces": NUM_TRACES,
        "traces_dropped": len(disturbed),
        "is_quiet": usable is kept,
    }


def _traced(work: Callable[[], None]) -> tuple[float, bool, list[tuple[str, float, float]]]:
    """Seconds of some work, whether the machine was quiet, and the events of its trace."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            seconds, is_quiet = timed(work)
        (path,) = pathlib.Path(directory).glob("**/*.xplane.pb")
        return seconds, is_quiet, list(_instruction_events(jax.profiler.ProfileData.from_file(str(path))))


def _instruction_events(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, float, float]]:
    """Instruction, begin and end in nanoseconds of what XLA ran."""
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    yield str(name), event.start_ns, event.start_ns + event.duration_ns


def instructions_in_scope(text: str, scope: str) -> set[str]:
    """Names of a compiled program's instructions that were written in a named scope, or fuse something that was."""
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
    """Length of the union of intervals."""
    total, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def measure_paper() -> dict[str, object]:
    """Compile the step of the paper's network from shapes alone."""
    config = load_config(CONFIG, f"quantizer=vp,codebook_size={CODEBOOK_SIZE}", PAPER)
    program = loop.compile_program(config)
    return {
        "what": "compilation of the step of the paper's VQGAN (f = 8), quantizer vp; nothing is run",
        "codebook_size": CODEBOOK_SIZE,
        "batch_size": config.train.batch_size,
        "crop": config.data.crop,
        "compile_seconds": program.compile_seconds,
        "memory": loop.memory_need(program.step),
    }


def take_turns(sides: dict[str, Callable[[int], None]], rounds: int, steps: int) -> tuple[dict[str, float], dict]:
    """Median seconds a step of each side, after one block of each as a warm-up, and how quiet the machine was.

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
    """Seconds of some work, and whether other processes left the machine to it."""
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
    sys.exit(main())
