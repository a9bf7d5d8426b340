"""Runs of several devices and several processes: real processes that meet over gloo, stopped and killed for real."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from tests import tiny
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.console import TRY_AGAIN
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.loop import abstract_state

pytestmark = pytest.mark.system

NUM_STEPS = 12
SETTINGS = {
    "train__num_steps": NUM_STEPS,
    "train__batch_size": 8,
    # Low: Adam moves a parameter by the rate whatever its gradient, even one that is the rounding of sums alone. At the
    # demo's 2e-3, 1e-7 in the first step grows to 1e-3 in the twelfth, by when single proposals are decided otherwise.
    "train__learning_rate": 1e-4,
    "train__final_learning_rate": 1e-5,
    "checkpoint__every": 4,
    "eval__splits": "('test',)",
}
METRICS = ("loss", "l1", "quantizer_loss", "acceptance_rate", "move_length", "radius", "gradient_norm")


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _start(workdir, data_dir, *, num_processes=1, num_devices=1, second=None, **overrides):
    """The processes of a run; `second` has what is otherwise for the second: a workdir, a home, settings."""
    port = _free_port()
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    processes = []
    for number in range(num_processes):
        own = {"workdir": workdir, "home": os.environ["HOME"]} | ((second or {}) if number == 1 else {})
        environment = os.environ | {"XLA_FLAGS": flags.strip(), "HOME": str(own.pop("home"))}
        words = tiny.command(own.pop("workdir"), data_dir, **SETTINGS | overrides | own)
        if num_processes > 1:
            words += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={num_processes}", f"--process_id={number}"]
        log = workdir.with_name(f"{workdir.name}-{number}.log")
        with log.open("w") as file:
            process = subprocess.Popen(words, cwd=tiny.ROOT, stdout=file, stderr=file, env=environment)
        process.log = log
        processes.append(process)
    return processes


def _finish(processes, timeout=300):
    """Exit codes, and what each has said."""
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [process.log.read_text() for process in processes]


def _run(*arguments, **settings):
    codes, said = _finish(_start(*arguments, **settings))
    assert not any(codes), said


def _lines(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _weights(workdir):
    return safetensors.numpy.load_file(tiny.tokenizer(workdir) / "weights.safetensors")


def _assert_same_run(workdir, other):
    for name, array in _weights(other).items():
        np.testing.assert_array_equal(_weights(workdir)[name], array, err_msg=name)
    assert [line["loss"] for line in _lines(workdir)] == [line["loss"] for line in _lines(other)]


class _Layouts(dict):
    """Work directories of the same run by (processes, devices of each), each made when it is first asked for."""

    def __init__(self, root, data_dir):
        super().__init__()
        self._root, self._data_dir = root, data_dir

    def __missing__(self, layout):
        num_processes, num_devices = layout
        self[layout] = workdir = self._root / f"{num_processes}x{num_devices}"
        _run(workdir, self._data_dir, num_processes=num_processes, num_devices=num_devices)
        return workdir


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, data_dir):
    return _Layouts(tmp_path_factory.mktemp("layouts"), data_dir)


def _assert_alike(workdir, other):
    """Figures of every step to 1e-4, of the norm of the gradient to 2e-3: sums differ in order."""
    for expected, line in zip(_lines(other), _lines(workdir), strict=True):
        for name in METRICS:
            tolerance = 2e-3 if name == "gradient_norm" else 1e-4
            assert line[name] == pytest.approx(expected[name], rel=tolerance), (line["step"], name)
    for name, array in _weights(other).items():
        if name != "codebook":  # k-means chooses points as its start: see below
            np.testing.assert_allclose(_weights(workdir)[name], array, atol=1e-5, err_msg=name)


def _memory(workdir, data_dir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(abstract_state(tiny.experiment(data_dir)), step=8).quantizer_state.memory


@pytest.mark.parametrize(
    "layout", [(2, 1), *(pytest.param(each, marks=pytest.mark.reliability) for each in ((1, 8), (2, 4)))]
)
def test_the_run_does_not_depend_on_where_it_runs(layouts, data_dir, layout):
    """Nor do the latents in its memory, to 1e-4."""
    alone, many = layouts[1, 1], layouts[layout]
    assert len(_lines(many)) == NUM_STEPS
    _assert_alike(many, alone)
    expected, memory = _memory(alone, data_dir), _memory(many, data_dir)
    np.testing.assert_allclose(memory.samples, expected.samples, atol=1e-4)
    assert int(memory.cursor) == int(expected.cursor) > 0


def test_an_evaluation_is_shared_by_the_processes(layouts, tmp_path, data_dir):
    """And gives what one process gives: every score, every use of a code, the pictures, what cannot be read.

    Of four processes the first finds nothing that it can read.
    """
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        PIL.Image.fromarray(pixels).resize((64, 64), PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "0.png").write_bytes(b"no picture")
    data = {"data__source": "folder", "data__path": folder, "data__name": "", "eval__splits": "('all',)"}
    results, arrays = [], []
    for num_processes in (1, 4):
        workdir = tmp_path / f"by-{num_processes}"
        shutil.copytree(layouts[1, 1], workdir)
        _run(workdir, data_dir, mode="evaluate", num_processes=num_processes, eval__num_pictures=3, **data)
        results.append(json.loads(tiny.evaluation(workdir, "pictures-all").read_text()))
        arrays.append(dict(np.load(tiny.evaluation(workdir, "pictures-all").with_suffix(".npz"))))
    expected, found = results
    assert [example["name"] for example in found["examples"]] == [f"{number}.png" for number in range(1, 5)]
    for name in ("psnr_db", "ssim", "psnr_db_continuous", "cvu"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    for example, other in zip(found["examples"], expected["examples"], strict=True):
        assert example.pop("name") == other.pop("name")
        assert example == pytest.approx(other, rel=1e-5)
    for name in ("num_tokens", "num_examples", "num_skipped", "num_codes_used", "skipped"):
        assert found[name] == expected[name], name
    assert found["num_skipped"] == 1
    assert arrays[0].keys() == arrays[1].keys()
    assert "quantized_2" in arrays[0]
    for name in arrays[0]:
        np.testing.assert_array_equal(arrays[1][name], arrays[0][name], err_msg=name)


@pytest.mark.reliability
@pytest.mark.parametrize(("num_devices", "is_cut"), [(8, False), (2, True)])
def test_a_run_resumes_with_other_devices(layouts, tmp_path, data_dir, num_devices, is_cut):
    """And with parameters cut over them that were whole before."""
    workdir = tmp_path / "run"
    shutil.copytree(layouts[1, 1], workdir)
    shutil.rmtree(workdir / "checkpoints" / str(NUM_STEPS))
    shutil.rmtree(workdir / "tokenizers")
    _run(workdir, data_dir, num_devices=num_devices, train__shard_params=is_cut)
    _assert_alike(workdir, layouts[1, 1])


@pytest.mark.parametrize("layout", [(1, 8), pytest.param((2, 1), marks=pytest.mark.reliability)])
def test_the_codebook_of_the_same_network_does_not_depend_on_where_it_is_fitted(layouts, tmp_path, data_dir, layout):
    workdir = tmp_path / "run"
    shutil.copytree(layouts[1, 1], workdir)
    shutil.rmtree(workdir / "tokenizers")
    num_processes, num_devices = layout
    _run(workdir, data_dir, mode="fit_codebook", num_processes=num_processes, num_devices=num_devices)
    np.testing.assert_allclose(_weights(workdir)["codebook"], _weights(layouts[1, 1])["codebook"], atol=1e-5)


@pytest.mark.reliability
def test_parameters_cut_over_the_devices_train_alike(layouts, tmp_path, data_dir):
    """And are sharded: no device holds all of the largest array."""
    wide = {"model__channels": 128, "train__num_steps": 4}
    runs = [tmp_path / name for name in ("copied", "cut")]
    for workdir, is_cut in zip(runs, (False, True), strict=True):
        _run(workdir, data_dir, num_devices=4, train__shard_params=is_cut, **wide)
    _assert_alike(runs[1], runs[0])
    needs = [
        float(workdir.with_name(f"{workdir.name}-0.log").read_text().split("arguments ")[1].split(",")[0])
        for workdir in runs
    ]
    assert needs[1] < 0.75 * needs[0]


def _wait_until(is_time, processes, seconds=240):
    end = time.monotonic() + seconds
    while not is_time():
        assert all(process.poll() is None for process in processes), [p.log.read_text() for p in processes]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.reliability
@pytest.mark.parametrize(("num_processes", "num_asked"), [(2, 1), (1, 1), (2, 2)])
def test_sigterm_saves_and_ends_well(layouts, tmp_path, data_dir, num_processes, num_asked):
    """Within 30 s: that of one process is heard by all. The same command then ends where an undisturbed run does."""
    workdir = tmp_path / "run"
    start = functools.partial(_start, workdir, data_dir, num_processes=num_processes, checkpoint__every=100)
    processes = start()
    _wait_until(lambda: len(_lines(workdir)) >= 3, processes)
    for process in processes[-num_asked:]:
        process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    codes, said = _finish(processes)
    assert codes == [0] * num_processes, said
    assert time.monotonic() - asked < 30
    assert all("asked to stop: saved step" in words for words in said)
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 3 <= steps[0] < NUM_STEPS

    codes, said = _finish(start())
    assert not any(codes), said
    _assert_same_run(workdir, layouts[num_processes, 1])


def test_sigterm_before_there_is_anything_to_save(tmp_path, data_dir):
    (process,) = _start(tmp_path / "run", data_dir)
    _wait_until((tmp_path / "run" / "config.json").exists, [process])
    process.send_signal(signal.SIGTERM)
    codes, said = _finish([process])
    assert codes == [0], said
    assert "asked to stop" in said[0]


@pytest.mark.reliability
@pytest.mark.parametrize(("killed", "moment"), [(0, "a step"), (1, "a save")])
def test_a_process_that_dies_ends_the_others_with_a_word(layouts, tmp_path, data_dir, killed, moment):
    """Within 150 s, and not as an error of theirs. Then the same command resumes."""
    workdir = tmp_path / "run"
    processes = _start(workdir, data_dir, num_processes=2)
    is_time = {
        "a step": lambda: len(_lines(workdir)) >= 6,
        "a save": lambda: any((workdir / "checkpoints").glob("*tmp*")),
    }
    _wait_until(is_time[moment], processes)
    processes[killed].kill()
    died = time.monotonic()
    codes, said = _finish(processes)
    assert time.monotonic() - died < 150
    assert codes[1 - killed] in (TRY_AGAIN, -signal.SIGABRT), said  # JAX's own client aborts where it sees it first
    assert "another process of the run has stopped" in said[1 - killed] or "coordination service" in said[1 - killed]

    codes, said = _finish(_start(workdir, data_dir, num_processes=2))
    assert not any(codes), said
    _assert_same_run(workdir, layouts[2, 1])


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation ncclAllReduce failed: remote process exited"), True),
        (ValueError("INTERNAL: Gloo all-reduce failed"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), False),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes"), False),
        (ValueError("fewer latents than codes"), False),
    ],
)
def test_errors_of_a_lost_peer_are_told_from_those_of_the_process(monkeypatch, error, is_lost):
    assert not processes.lost_peer(error)  # alone there is no peer
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert bool(processes.lost_peer(error)) == is_lost
    outer = RuntimeError("a checkpoint could not be written")
    outer.__cause__ = error
    assert bool(processes.lost_peer(outer)) == is_lost


_GATHER = """
import sys, numpy as np
from vpvae_jax.runtime import processes

number, port = int(sys.argv[1]), sys.argv[2]
processes.join(f"127.0.0.1:{port}", 3, number)

def value(k):
    arrays = {"f": np.full((3 * k, 2), 1 / 3), "i": np.arange(k) + 2**50}
    return {"list": [1 / 3 + k, None, 2**40 + k, f"no text \\udcff {k}"], "empty": [], **arrays}

found = processes.gather(value(number))
assert len(found) == 3
for k, part in enumerate(found):
    expected = value(k)
    assert part["list"] == expected["list"] and part["empty"] == []
    for name in "fi":
        assert part[name].dtype == expected[name].dtype and np.array_equal(part[name], expected[name]), name
assert processes.from_first([number]) == [0]
processes.wait_for_all()
"""


def test_what_is_gathered_is_what_each_has():
    """To the bit, whatever its length and type."""
    port = str(_free_port())
    words = [[sys.executable, "-c", _GATHER, str(number), port] for number in range(3)]
    processes = [subprocess.Popen(word, cwd=tiny.ROOT, stderr=subprocess.PIPE, text=True) for word in words]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_processes_that_were_started_differently_say_so(tmp_path, data_dir):
    codes, said = _finish(_start(tmp_path / "run", data_dir, num_processes=2, second={"seed": 5}))
    assert codes == [1, 1]
    assert all(
        "process 1 was started with other settings" in words and "seed is 5 there and 0 in" in words for words in said
    )
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_not_all_see_is_refused(tmp_path, data_dir):
    second = {"workdir": tmp_path / "other"}
    codes, said = _finish(_start(tmp_path / "run", data_dir, num_processes=2, second=second))
    assert codes == [1, 1]
    assert all("process 1 does not see the" in words for words in said)


def test_hosts_with_other_data_say_so(tmp_path, data_dir):
    """As many files of the same names, one of them with another content on the second host."""
    for home, level in (("a", 0), ("b", 50)):
        folder = tmp_path / home / "pictures"
        folder.mkdir(parents=True)
        for number in range(6):
            colour = (10 * number, level if number == 3 else 0, 0)
            PIL.Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
    data = {"data__source": "folder", "data__path": "~/pictures", "eval__splits": "('validation',)"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path / "a"))
        processes = _start(
            tmp_path / "run", data_dir, num_processes=2, second={"home": tmp_path / "b"}, data__name="", **data
        )
    codes, said = _finish(processes)
    assert codes == [1, 1]
    assert all("process 1 has other data (give all hosts" in words for words in said), said


@pytest.mark.reliability
def test_sigterm_while_a_resumed_run_compiles_is_heard(layouts, tmp_path, data_dir):
    """Of several processes, that agree on a step: one that lies ahead of where they resume."""
    workdir = tmp_path / "run"
    shutil.copytree(layouts[2, 1], workdir)
    shutil.rmtree(workdir / "checkpoints" / str(NUM_STEPS))
    processes = _start(workdir, data_dir, num_processes=2, checkpoint__every=100)
    _wait_until(lambda: "compiled the step" in processes[0].log.read_text(), processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, said = _finish(processes)
    assert codes == [0, 0], said
    assert all("asked to stop" in words for words in said)


def test_another_number_of_processes_is_refused(layouts, data_dir):
    done = tiny.run(tiny.command(layouts[2, 1], data_dir, **SETTINGS))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the checkpoint is of a run of 2 processes")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_processes=2"], "--coordinator and --process_id not given"),
        (["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=2"], "--process_id=2: expected 0 to 1"),
        (["--distributed"], "no cluster that JAX knows"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, data_dir, words, message):
    done = tiny.run(tiny.command(tmp_path / "run", data_dir) + words)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_this_process_has_one_device():
    """What the figures above are compared with."""
    assert jax.device_count() == 1
