"""What a user does with a run besides training it: other codebooks, other data, more steps, another start, Ctrl-C."""

import json
import shutil
import signal
import subprocess
import time

import flax.traverse_util
import jax
import numpy as np
import PIL.Image
import pytest

from tests import tiny
from vpvae_jax import runs
from vpvae_jax.config import workdir as layout
from vpvae_jax.reporting.collection import lines, read_run
from vpvae_jax.runtime.errors import ConfigError, DataError
from vpvae_jax.tokenizer import Tokenizer, storage
from vpvae_jax.training import loop, warm_start


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(trained, tmp_path / "run")


def _pictures(folder, seed=0, num=4):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(num):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        PIL.Image.fromarray(pixels).resize((64, 64), PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


class TestTokenizers:
    @pytest.mark.system
    def test_a_refit_is_added_and_becomes_the_current_one(self, workdir):
        before = storage.sha256(workdir / layout.TOKENIZERS / "k16-step6")
        tiny.do(None, workdir, "fit_codebook", codebook__num_codes=8)
        assert layout.tokenizers(workdir) == ["k16-step6", "k8-step6"]
        assert Tokenizer.load(workdir).codebook_size == 8
        assert storage.sha256(workdir / layout.TOKENIZERS / "k16-step6") == before
        tiny.do(None, workdir, "fit_codebook")  # as the training did: nothing new
        assert layout.tokenizers(workdir) == ["k16-step6", "k8-step6"]
        assert layout.current_tokenizer(workdir) == "k16-step6"
        assert storage.sha256(workdir / layout.TOKENIZERS / "k16-step6") == before

    @pytest.mark.system
    def test_another_codebook_of_the_same_size_gets_another_name(self, workdir):
        tiny.do(None, workdir, "fit_codebook", codebook__source="memory")
        assert layout.tokenizers(workdir) == ["k16-step6", "k16-step6-2"]
        tiny.do(None, workdir, "fit_codebook", codebook__source="memory", options=runs.Options(tokenizer="mine"))
        assert layout.current_tokenizer(workdir) == "mine"
        with pytest.raises(ConfigError, match="mine holds another tokenizer: give --tokenizer=NAME another name"):
            tiny.do(None, workdir, "fit_codebook", options=runs.Options(tokenizer="mine"))
        for name in ("current", "a/b", ".."):
            with pytest.raises(ConfigError, match=f"--tokenizer={name}: expected letters"):
                tiny.do(None, workdir, "fit_codebook", options=runs.Options(tokenizer=name))

    @pytest.mark.system
    def test_one_command_fits_and_scores_several_sizes(self, workdir, capsys):
        options = runs.Options(codebook_sizes=(4, 8))
        tiny.do(None, workdir, "refit", options=options, eval__splits=("test",))
        assert layout.current_tokenizer(workdir) == "k16-step6"
        assert layout.tokenizers(workdir) == ["k16-step6", "k4-step6", "k8-step6"]
        for name, size in (("k4-step6", 4), ("k8-step6", 8), ("k16-step6", 16)):
            results = json.loads(tiny.evaluation(workdir, "photos-test", name).read_text())
            assert (results["codebook_size"], results["tokenizer"]["name"]) == (size, name)
        shown = " ".join(capsys.readouterr().out.split())
        assert all(f"photos-test {name}" in shown for name in ("k4-step6", "k8-step6", "k16-step6"))


class TestEvaluations:
    @pytest.mark.system
    def test_of_folders_of_one_name_and_of_other_sizes_stand_side_by_side(self, workdir, tmp_path):
        for seed, parent in enumerate(("a", "b")):
            _pictures(tmp_path / parent / "same", seed)
            data = {"data__source": "folder", "data__path": str(tmp_path / parent / "same"), "eval__splits": ("all",)}
            tiny.do(None, workdir, "evaluate", **data)
        tiny.do(None, workdir, "evaluate", data__eval_crop=32, **data)
        names = sorted(path.name for path in (workdir / "eval").glob("same-all.*.json"))
        assert len(names) == 3
        assert sum(".4x64px." in name for name in names) == 2
        assert sum(".4x32px." in name for name in names) == 1
        titles = {line.evaluation for line in lines([read_run(workdir)])}
        assert "photos-test" in titles
        assert len(titles) == 5

    def test_those_of_an_older_or_replaced_tokenizer_are_stale(self, workdir):
        assert read_run(workdir).stale == frozenset()
        path = tiny.evaluation(workdir, "photos-test")
        results = json.loads(path.read_text())
        path.write_text(json.dumps(results | {"step": 5}))
        assert read_run(workdir).stale == {path.stem}
        path.write_text(json.dumps(results | {"tokenizer": {"name": "k16-step6", "sha256": "another"}}))
        assert read_run(workdir).stale == {path.stem}
        assert "k16-step6 (stale)" in {line.tokenizer for line in lines([read_run(workdir)])}

    @pytest.mark.system
    def test_a_split_with_a_slash_has_a_file(self, workdir, tmp_path):
        folder = _pictures(tmp_path / "own" / "val" / "deep").parents[1]
        tiny.do(None, workdir, "evaluate", data__source="folder", data__path=str(folder), eval__splits=("val/deep",))
        assert list((workdir / "eval").glob("own-val%2Fdeep.*.json"))


class TestTraining:
    @pytest.mark.system
    def test_longer_in_the_same_directory(self, workdir):
        tiny.do(None, workdir, train__num_steps=8, eval__splits=("test",))
        assert layout.tokenizers(workdir) == ["k16-step6", "k16-step8"]
        assert [line["step"] for line in read_run(workdir).log] == list(range(1, 9))
        assert json.loads((workdir / "config.json").read_text())["train"]["num_steps"] == 8
        assert {name.split(".")[1] for name in read_run(workdir).stale} == {"k16-step6"}

    @pytest.mark.system
    def test_data_that_moved_are_recognised(self, tmp_path, data_dir):
        folder = _pictures(tmp_path / "here")
        data = {"data__source": "folder", "data__name": "", "eval__splits": ("all",)}
        tiny.do(tiny.config(data_dir, data__path=str(folder), **data), tmp_path / "run")
        folder.rename(tmp_path / "there")
        tiny.do(None, tmp_path / "run", train__num_steps=8, data__path=str(tmp_path / "there"))
        assert layout.newest_step(tmp_path / "run") == 8
        _pictures(tmp_path / "others", seed=1)
        with pytest.raises(DataError, match="one of those compared has other content"):
            tiny.do(None, tmp_path / "run", train__num_steps=9, data__path=str(tmp_path / "others"))

    @pytest.mark.parametrize(
        ("part", "modules"),
        [
            ("", {"encoder", "down", "decoder", "up"}),
            (":encoder", {"encoder", "down"}),
            (":decoder", {"decoder", "up"}),
        ],
    )
    def test_from_another_network(self, trained, data_dir, part, modules):
        expected = _network(trained)
        for place in (trained, tiny.tokenizer(trained)):
            params = warm_start.load(tiny.experiment(data_dir, train__init_from=f"{place}{part}"))
            assert params.keys() == modules
            jax.tree.map(np.testing.assert_array_equal, params, {name: expected[name] for name in modules})

    @pytest.mark.system
    def test_what_is_not_given_is_random(self, trained, data_dir):
        expected = _network(trained)
        experiment = tiny.experiment(data_dir, seed=1)
        given = loop.new_state(experiment, params={"up": expected["up"]}).params["network"]
        jax.tree.map(np.testing.assert_array_equal, given["up"], expected["up"])
        assert not np.array_equal(given["down"]["kernel"], expected["down"]["kernel"])

    def test_of_another_shape_is_refused_with_both(self, trained, data_dir):
        experiment = tiny.experiment(data_dir, train__init_from=str(trained), model__channels=16)
        with pytest.raises(ConfigError, match=r"does not fit: .* is \(8,\) there and \(16,\) in this network") as error:
            warm_start.load(experiment)
        assert "or take only" not in str(error.value)  # no part of it would fit

    def test_the_part_that_fits_is_named(self, trained, data_dir):
        experiment = tiny.experiment(data_dir, train__init_from=str(trained), quantizer__latent_dim=4)
        with pytest.raises(ConfigError, match=r"quantizer.latent_dim as there$"):
            warm_start.load(experiment)
        other = _network(trained)
        other["up"] = {name: array[..., :1] for name, array in other["up"].items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(warm_start, "_read", lambda directory: other)
            with pytest.raises(ConfigError, match=r"or take only :encoder$"):
                warm_start.load(tiny.experiment(data_dir, train__init_from=str(trained)))


def _network(workdir):
    arrays, _ = storage.read(tiny.tokenizer(workdir))
    return flax.traverse_util.unflatten_dict(arrays, sep="/")["network"]


class TestInterruption:
    def start(self, workdir, data_dir, **settings):
        words = tiny.command(workdir, data_dir, train__num_steps=5000, checkpoint__every=5000, **settings)
        return subprocess.Popen(
            words, cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    @pytest.mark.system
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
    def test_saves_and_the_same_command_resumes(self, tmp_path, data_dir, number, code):
        with self.start(tmp_path / "run", data_dir) as process:
            _wait(process, lambda: (tmp_path / "run" / "metrics.jsonl").exists() and _lines(tmp_path / "run") > 3)
            process.send_signal(number)
            output, errors = process.communicate(timeout=120)
        step = layout.newest_step(tmp_path / "run")
        assert process.returncode == code, errors
        assert step > 3
        assert f"asked to stop: saved step {step} of 5000; run the same command again to resume" in output
        assert ("Ctrl-C again stops at once" in errors) == (number == signal.SIGINT)
        assert "Traceback" not in errors

    @pytest.mark.system
    def test_ctrl_c_before_the_first_step_says_that_nothing_is_saved(self, tmp_path, data_dir):
        with self.start(tmp_path / "run", data_dir) as process:
            next(line for line in process.stdout if "compiling the step" in line)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        last = errors.strip().splitlines()[-1]
        assert last.startswith("error: interrupted: there is no checkpoint yet; run the same command again to start")


def _lines(workdir):
    return len((workdir / "metrics.jsonl").read_text().splitlines())


def _wait(process, is_time):
    while process.poll() is None and not is_time():
        time.sleep(0.01)
    assert process.poll() is None


@pytest.mark.system
def test_two_runs_do_not_share_a_work_directory(tmp_path, data_dir):
    """The second ends with one line and changes nothing, whichever is the second."""
    words = tiny.command(tmp_path / "run", data_dir)
    other = tiny.command(tmp_path / "run", data_dir, seed=1, train__learning_rate=0.01)
    first, second = (
        subprocess.Popen(each, cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in (words, other)
    )
    ends = [process.communicate(timeout=300)[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 1], ends
    loser = ends[codes.index(1)].strip().splitlines()[-1]
    assert "another process is at work in" in loser or "holds another config" in loser
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["seed"] == codes.index(0)
