"""The command line on good and on bad input."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from tests import tiny
from vpvae_jax import main, runs
from vpvae_jax.config import workdir as layout
from vpvae_jax.config.files import load_config
from vpvae_jax.quantizers import QUANTIZERS
from vpvae_jax.runtime.errors import CheckpointError, ConfigError, DataError, TrainingDivergedError, UserError
from vpvae_jax.tokenizer import Tokenizer, storage


def _noise_folder(folder, num_images=4, size=64):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(num_images):
        PIL.Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def _assert_one_line_error(done, *words):
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


def test_train_leaves_everything_that_is_promised(trained):
    for name in (
        "config.json",
        "metrics.jsonl",
        "reconstructions.png",
        "curves.png",
        "code_usage.png",
        "tokenizers/k16-step6/weights.safetensors",
        "tokenizers/k16-step6/tokenizer.json",
        "done.json",
    ):
        assert (trained / name).stat().st_size > 0, name
    assert layout.current_tokenizer(trained) == "k16-step6"
    assert list((trained / "tensorboard").glob("events.*"))
    assert (trained / "checkpoints" / "6").is_dir()
    results = json.loads(tiny.evaluation(trained, "photos-test").read_text())
    promised = {"psnr_db", "ssim", "psnr_db_continuous", "cvu", "codebook_size", "num_codes_used", "num_tokens"}
    assert promised | {"num_examples", "step", "config"} <= results.keys()
    assert tiny.evaluation(trained, "photos-test").name.startswith("photos-test.k16-step6.2x64px.")
    assert tiny.evaluation(trained, "photos-validation").exists()
    assert results["tokenizer"] == {"name": "k16-step6", "sha256": storage.sha256(tiny.tokenizer(trained))}
    assert results["num_examples"] == 2
    assert results["num_tokens"] == 2 * (64 // 2) ** 2
    assert results["step"] == 6
    assert results["config"]["train"]["num_steps"] == 6
    for name in ("reconstructions.png", "curves.png", "code_usage.png"):
        pixels = np.asarray(PIL.Image.open(trained / name).convert("L"))
        assert pixels.std() > 10, f"{name} is blank"


@pytest.mark.parametrize("mode", ["fit_codebook", pytest.param("evaluate", marks=pytest.mark.system), "report"])
def test_later_modes_run_alone_and_agree(trained, tmp_path, mode):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    made = {"fit_codebook": "tokenizers", "evaluate": "eval", "report": "reconstructions.png"}[mode]
    path = workdir / made
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    tiny.do(None, workdir, mode)

    if mode == "fit_codebook":
        mine, theirs = (
            safetensors.numpy.load_file(tiny.tokenizer(d) / "weights.safetensors") for d in (workdir, trained)
        )
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    elif mode == "evaluate":
        mine, theirs = (json.loads(tiny.evaluation(d, "photos-test").read_text()) for d in (workdir, trained))
        assert mine == theirs
    else:
        assert (workdir / made).read_bytes() == (trained / made).read_bytes()


@pytest.mark.system
def test_codebook_from_memory_differs_from_codebook_from_data(trained, tmp_path, data_dir):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    tiny.do(tiny.config(data_dir, codebook__source="memory"), workdir, "fit_codebook")
    mine, theirs = (safetensors.numpy.load_file(tiny.tokenizer(d) / "weights.safetensors") for d in (workdir, trained))
    assert mine["codebook"].shape == theirs["codebook"].shape
    assert not np.array_equal(mine["codebook"], theirs["codebook"])


@pytest.mark.system
def test_codebook_of_another_size_than_that_of_the_training(trained, tmp_path, data_dir):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    tiny.do(tiny.config(data_dir, codebook__num_codes=24), workdir, "fit_codebook")
    codebook = safetensors.numpy.load_file(tiny.tokenizer(workdir) / "weights.safetensors")["codebook"]
    assert codebook.shape == (24, 3)
    tokenizer = Tokenizer.load(workdir)
    assert tokenizer.codebook_size == 24
    _assert_every_index_comes_back(tokenizer)

    tiny.do(None, workdir, "evaluate")
    results = json.loads(tiny.evaluation(workdir, "photos-test", "k24-step6").read_text())
    assert results["codebook_size"] == 24
    assert 0 < results["num_codes_used"] <= 24
    assert np.isfinite(results["psnr_db"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.system if name == "fsp" else pytest.mark.reliability)
        for name in QUANTIZERS
        if name != "vp"
    ],
)
def test_every_method_goes_from_training_to_tokens(tmp_path, data_dir, name):
    config = tiny.config(
        data_dir, f"quantizer={name},codebook_size=16", train__num_steps=3, checkpoint__every=3, eval__splits=("test",)
    )
    tiny.do(config, tmp_path, "train")
    results = json.loads(tiny.evaluation(tmp_path, "photos-test").read_text())
    assert np.isfinite(results["psnr_db"])
    assert results["codebook_size"] == 16
    assert results["config"]["quantizer"]["name"] == name
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.codebook_size == 16
    _assert_every_index_comes_back(tokenizer)


def _assert_every_index_comes_back(tokenizer):
    every = np.arange(tokenizer.codebook_size, dtype=np.int32).reshape(1, 4, -1)
    np.testing.assert_array_equal(tokenizer.encode_latents(tokenizer._to_codes(tokenizer._weights, every)), every)


def test_tokenizer_round_trip_from_a_work_directory(trained):
    tokenizer = Tokenizer.load(trained)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    indices = tokenizer.encode(images)
    assert indices.shape == (2, 16, 24)
    assert indices.dtype == np.int32
    assert tokenizer.decode(indices).shape == images.shape
    every = np.arange(16, dtype=np.int32).reshape(1, 4, 4)
    codes = tokenizer._to_codes(tokenizer._weights, every)
    np.testing.assert_array_equal(tokenizer.encode_latents(codes), every)
    with pytest.raises(DataError, match=r"codes are 0..15"):
        tokenizer.decode(every + 1)
    with pytest.raises(DataError, match="multiples of 2"):
        tokenizer.encode(images[:, :31])
    with pytest.raises(DataError, match="uint8"):
        tokenizer.encode(images.astype(np.float32))


@pytest.mark.system
def test_folder_with_damaged_images_trains_and_counts_them(tmp_path, data_dir, capsys):
    folder = _noise_folder(tmp_path / "photos", num_images=6)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:2000])
    config = tiny.config(data_dir, data__source="folder", data__path=str(folder), eval__splits=("all",))
    tiny.do(config, tmp_path / "run", "train")
    results = json.loads((tiny.evaluation(tmp_path / "run", "photos-all")).read_text())
    assert (results["num_examples"], results["num_skipped"]) == (6, 2)


def test_too_many_images_smaller_than_the_crop_are_refused(tmp_path, data_dir):
    folder = _noise_folder(tmp_path / "photos")
    PIL.Image.new("RGB", (12, 40)).save(folder / "slim.png")
    config = tiny.config(data_dir, data__source="folder", data__path=str(folder), eval__splits=("all",))
    with pytest.raises(
        DataError, match=r"1 of 5 images cannot be used \(slim\.png has 12 x 40 pixels: too small for 64"
    ):
        tiny.do(config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()


def test_few_small_images_are_skipped_and_counted(tmp_path, data_dir, capsys):
    folder = _noise_folder(tmp_path / "photos", num_images=12)
    PIL.Image.new("RGB", (12, 40)).save(folder / "slim.png")
    (folder / "scan.tif").write_bytes(b"not read")
    config = tiny.config(data_dir, data__source="folder", data__path=str(folder), eval__splits=("all",))
    runs.assemble(config, tmp_path / "run", "train")
    said = capsys.readouterr().out
    assert f"reading 12 images of photos in {folder} (passed over: 1 .tif) to train on" in said
    assert "13 images" in said
    assert "to evaluate as all, 1 of them too small or damaged and skipped" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"quantizer__eta": 0.0}, "eta=0.0.*eta > 0"),
        ({"quantizer__eta": -1.0}, "eta=-1.0"),
        ({"quantizer__k_radius": 1000, "quantizer__capacity": 512}, "memory holds 512 latents but k_radius=1000"),
        ({"codebook__max_latents": 15}, "15 latents cannot make a codebook of 16 codes"),
        ({"quantizer__capacity": 10, "quantizer__k_radius": 9, "codebook__source": "memory"}, "capacity=10 latents"),
        ({"train__batch_size": 0}, "train.batch_size=0: expected a positive number"),
        ({"data__crop": 17}, "data.crop=17: expected a multiple of the network's stride 2"),
        ({"eval__splits": ("validation", "exam")}, "no split 'exam'"),
        ({"eval__splits": ()}, "eval.splits"),
        ({"eval__lpips_weights": "nowhere"}, "weights of lpips: there is no file nowhere"),
        ({"eval__inception_weights": "nowhere"}, "weights of inception: there is no file nowhere"),
        ({"data__path": "photos"}, "data.path=photos is not used with data.source=tfds"),
        ({"data__eval_crop": 8}, "eval_crop=8: expected 0, or at least the 11 of SSIM"),
        ({"model__attention_levels": (2,)}, r"attention_levels.*0\.\.1"),
        ({"model__channel_multipliers": ()}, "channel_multipliers"),
        ({"train__learning_rate": float("nan")}, "learning_rate=nan: expected a finite number"),
        ({"quantizer__latent_norm__variance_weight": -1.0}, "variance_weight=-1.0: expected 0 or more"),
        ({"codebook__num_codes": 0}, "codebook.num_codes=0: expected a positive number"),
        ({"codebook__num_codes": -1}, "codebook.num_codes=-1: expected a positive number"),
        (
            {"codebook__source": "memory", "codebook__num_codes": 800, "codebook__max_latents": 1000},
            "capacity=768 latents in the memory cannot make a codebook of 800 codes",
        ),
        ({"codebook__num_codes": 513}, "max_latents=512 latents cannot make a codebook of 513 codes"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path, data_dir, overrides, message):
    workdir = tmp_path / "run"
    with pytest.raises((ConfigError, DataError), match=message):
        tiny.do(tiny.config(data_dir, **overrides), workdir, "train")
    assert not workdir.exists()


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name not in ("vp", "none")])
def test_a_method_with_its_own_codebook_gets_no_other(tmp_path, data_dir, name):
    config = tiny.config(data_dir, f"quantizer={name},codebook_size=16", codebook__num_codes=24)
    for mode in ("train", "fit_codebook"):
        with pytest.raises(ConfigError, match=rf"codebook\.num_codes=24 but {name} has its codebook from training"):
            tiny.do(config, tmp_path / "run", mode)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "vp"])
def test_a_method_without_a_memory_cannot_fit_to_it(tmp_path, data_dir, name):
    config = tiny.config(data_dir, f"quantizer={name},codebook_size=16", codebook__source="memory")
    for mode in ("train", "fit_codebook"):
        with pytest.raises(ConfigError, match=rf"codebook\.source=memory but quantizer\.name={name} keeps no memory"):
            tiny.do(config, tmp_path / "run", mode)
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_and_named(trained, data_dir):
    before = (trained / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"seed is 1 but 0 there; train.learning_rate is 0.5 but"):
        tiny.do(tiny.config(data_dir, seed=1, train__learning_rate=0.5), trained, "train")
    with pytest.raises(ConfigError, match=r"model.channels is 16 but 8 there"):
        tiny.do(tiny.config(data_dir, model__channels=16), trained, "evaluate")
    assert (trained / "config.json").read_bytes() == before


def test_later_modes_start_from_the_stored_config(trained):
    experiment = runs.assemble(None, trained, "evaluate", {"eval.splits": ("test",), "data.eval_crop": 32})
    recorded = experiment.config
    assert (recorded.train.num_steps, recorded.eval.splits, recorded.data.eval_crop) == (6, ("test",), 32)
    with pytest.raises(ConfigError, match=r"seed is 5 but 0 there; train.num_steps is 77 but 6 there"):
        runs.assemble(None, trained, "evaluate", {"seed": 5, "train.num_steps": 77})


def test_a_stored_config_is_not_overwritten_by_another_one(tmp_path, data_dir):
    layout.write_config(tiny.config(data_dir), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="seed is 1 but 0 there"):
        tiny.do(tiny.config(data_dir, seed=1), tmp_path, "train")
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_training_set_that_changed_is_refused_on_resume(trained, tmp_path, data_dir):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    stored = json.loads((workdir / "data.json").read_text())
    (workdir / "data.json").write_text(json.dumps(stored | {"train": "3 records of train"}))
    with pytest.raises(
        DataError, match=r"the training set has changed since the checkpoint \(.*, was 3 records of train"
    ):
        tiny.do(tiny.config(data_dir), workdir, "train")


def test_damaged_evaluations_are_named(trained, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    archive = tiny.evaluation(workdir, "photos-test").with_suffix(".npz")
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"photos-test\..*\.npz is missing or damaged.*evaluate again"):
        tiny.do(None, workdir, "report")
    tiny.evaluation(workdir, "photos-test").write_text("{")
    with pytest.raises(CheckpointError, match=r"photos-test\..*\.json is damaged"):
        tiny.do(None, workdir, "report")


def test_each_mode_says_what_it_lacks(tmp_path, data_dir, trained):
    with pytest.raises(CheckpointError, match=r"holds no config\.json: train first"):
        tiny.do(None, tmp_path, "evaluate")
    with pytest.raises(ConfigError, match=r"no config, and .* holds none: expected --config"):
        tiny.do(None, tmp_path, "train")
    shutil.copy(trained / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint: train first"):
        tiny.do(None, tmp_path, "fit_codebook")
    with pytest.raises(CheckpointError, match="holds no tokenizer: fit a codebook first"):
        tiny.do(None, tmp_path, "evaluate")
    with pytest.raises(CheckpointError, match="holds no evaluation: evaluate first"):
        tiny.do(None, tmp_path, "report")


@pytest.mark.system
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, data_dir):
    config = tiny.config(data_dir, train__learning_rate=1e30, train__warmup_steps=0, checkpoint__every=1)
    with pytest.raises(TrainingDivergedError, match=r"is (nan|inf) at step 2: stopped.*learning_rate"):
        tiny.do(config, tmp_path, "train")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.trian.num_steps=3"], "trian.num_steps is not a key of this config: did you mean train.num_steps?"),
        (["--config.train.num_stepz=3"], "did you mean train.num_steps?"),
        (["--config.train.num_steps=many"], "train.num_steps='many': expected a whole number"),
        (["--config.train.learning_rate=fast"], "train.learning_rate='fast': expected a number"),
        (["--mode=trian"], "trian"),
        (["--wrokdir=x"], "wrokdir"),
        (["num_steps=3"], "unexpected argument 'num_steps=3': settings are given as --config.KEY=VALUE"),
        (["--config=no_such_file.py"], "--config=no_such_file.py is neither a file nor a config of the package"),
        (["--config=photoz"], "did you mean photos?"),
        (["--config=photos:quantizer=vqq"], "quantizer=vqq: "),
        (["--config=photos:quantizer=fsq,symmetric=false"], "symmetric='false': expected True or False"),
        (["--jobs=2"], "--jobs is not used by --mode=train"),
        (["--mode=compare", "--config=photos"], "no --comparison and no --results: --mode=compare needs it"),
        (["--config="], "--config= is neither a file"),
        (
            ["--mode=compare", "--comparison=photos", "--results=a"],
            "--comparison gives a Config: expected a Comparison",
        ),
        (
            ["--mode=compare", "--results=a", "--comparison.sedes=1"],
            "comparison.sedes is not a key of a comparison: did",
        ),
        (["--mode=report", "--runs=a,b"], "either --workdir=DIR, or --runs"),
    ],
)
def test_the_command_line_answers_a_mistake_with_one_line(words, message):
    with pytest.raises(UserError) as caught:
        main.parse(["main", "--workdir=run", "--config=photos", *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_without_a_config_file_are_those_of_the_work_directory(trained):
    words = ["--config.eval.splits=('test',)", "--config.debug.nans", "--noconfig.model.remat", "--config.seed=0"]
    given = main.parse(["main", f"--workdir={trained}", "--mode=evaluate", *words])
    assert given.config is None
    assert main.overrides(given) == {"eval.splits": ("test",), "debug.nans": True, "model.remat": False, "seed": 0}
    with pytest.raises(ConfigError, match=r"train.num_stepz is not a key of this config: did you mean train.num_steps"):
        runs.assemble(None, trained, "evaluate", {"train.num_stepz": 3})


def test_a_missing_work_directory_is_named():
    with pytest.raises(UserError, match="no --workdir: --mode=train needs it"):
        main.parse(["main", "--config=photos"])


def test_the_command_line_gives_what_the_config_file_and_its_settings_say():
    words = ["--config=photos:quantizer=fsp", "--config.train.num_steps=7", "--config.eval.splits=('test',)"]
    words += ["--config.quantizer.latent_norm.mean_weight=0.5", "--config.debug.nans", "--config.codebook.num_codes=9"]
    values = {
        "train.num_steps": 7, "eval.splits": ("test",), "quantizer.latent_norm.mean_weight": 0.5, "debug.nans": True,
        "codebook.num_codes": 9,
    }  # fmt: skip
    given = main.parse(["main", "--workdir=run", *words])
    assert given.config == load_config("photos", "quantizer=fsp", values)
    assert (
        main.parse(["main", "--workdir=run", "--config=photos", "--config.quantizer.eta=auto"]).config.quantizer.eta
        == "auto"
    )


def test_a_comparison_takes_single_overrides():
    words = [
        "--mode=compare",
        f"--comparison={tiny.ROOT / 'configs' / 'comparisons' / 'photos.py'}",
        "--results=a",
        "--workdir=b",
    ]
    words += ["--comparison.overrides.data.source=folder", "--comparison.overrides.eval.splits=('all',)"]
    given = main.parse(["main", *words])
    assert main.overrides(given) == {"data.source": "folder", "eval.splits": ("all",)}


def test_words_may_stand_apart_and_in_any_order():
    given = main.parse(["main", "--config.seed=3", "--config", "photos", "--workdir", "run"])
    assert given.config == load_config("photos", "", {"seed": 3})


def test_two_command_lines_in_one_process_do_not_meet():
    first, second = (main.parse(["main", "--workdir=run", "--config=photos", f"--config.seed={i}"]) for i in (1, 2))
    assert (first.config.seed, second.config.seed) == (1, 2)


def test_help_lists_every_mode_and_flag(capsys):
    main.main(["main", "--help"])
    shown = capsys.readouterr().out
    assert all(f"  {mode} " in shown for mode in main.MODES)
    assert all(f"--{flag}" in shown for mode in main.MODES.values() for flag in (*mode.needs, *mode.takes))


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.train.num_steps=0"], ["train.num_steps=0", "positive"]),
        (["--config.train.num_stepz=3"], ["did you mean train.num_steps?"]),
        (["--config.data.source=folder", "--config.data.path=/no/such/folder"], ["/no/such/folder is not a folder"]),
    ],
)
def test_a_mistake_ends_the_process_with_one_line(tmp_path, data_dir, words, message):
    done = tiny.run(tiny.command(tmp_path / "run", data_dir) + words)
    _assert_one_line_error(done, *message)
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_a_backend_without_a_device_is_named(tmp_path, data_dir):
    done = tiny.run(tiny.command(tmp_path / "run", data_dir), env=os.environ | {"JAX_PLATFORMS": "cuda"})
    _assert_one_line_error(done, "JAX cannot use a device (JAX_PLATFORMS=cuda", "or set JAX_PLATFORMS=cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["import vpvae_jax.main, vpvae_jax.compare", "import vpvae_jax.__main__"])
def test_the_command_line_can_be_imported(what):
    done = subprocess.run([sys.executable, "-c", what], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_work_directory_of_an_earlier_version_is_named(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "old")
    content = json.loads((trained / "config.json").read_text())
    del content["version"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"config\.json cannot be used: it was stored by another version of vpvae_jax"
    ):
        tiny.do(None, tmp_path / "old", "evaluate")


def test_a_save_that_fails_does_not_also_show_the_writes_it_left_behind():
    """TensorStore's writes end in their own threads, some after a failed save has closed its event loop."""
    code = textwrap.dedent("""
        import asyncio, sys, tensorstore
        from vpvae_jax.runtime import console
        sys.unraisablehook = console._show_unraisable
        promise, write = tensorstore.Promise.new()
        loop = asyncio.new_event_loop()
        async def save():
            async def wait():
                await write
            loop.waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.01)
        loop.run_until_complete(save())
        loop.close()
        promise.set_result(None)
        class Other:
            def __del__(self):
                raise RuntimeError("another error")
        Other()
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tiny.ROOT)
    assert "Event loop is closed" not in done.stderr
    assert "another error" in done.stderr


@pytest.mark.reliability
def test_a_full_disk_stops_cleanly_and_the_run_goes_on_after_room_is_made(tmp_path, data_dir):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"no right to mount a small disk: {mount.stderr.decode()}")
    steps = {"train__num_steps": 200, "checkpoint__every": 4, "checkpoint__keep": 1}
    try:
        words = tiny.command(disk / "run", data_dir, **steps)
        process = subprocess.Popen(words, cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (disk / "run" / "checkpoints" / "8").exists():
            time.sleep(0.01)
        _fill(disk / "filler")
        output, errors = process.communicate(timeout=120)
        done = subprocess.CompletedProcess(words, process.returncode, output, errors)
        _assert_one_line_error(done, "o space left on device")
        kept = [int(path.name) for path in (disk / "run" / "checkpoints").iterdir() if path.name.isdigit()]
        assert max(kept) >= 8

        (disk / "filler").unlink()
        assert tiny.run(words).returncode == 0
        undisturbed = tmp_path / "undisturbed"
        assert tiny.run(tiny.command(undisturbed, data_dir, **steps)).returncode == 0
        mine, theirs = (
            safetensors.numpy.load_file(tiny.tokenizer(d) / "weights.safetensors") for d in (disk / "run", undisturbed)
        )
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def _fill(path):
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


@pytest.mark.reliability
def test_debug_nans_names_the_operation(tmp_path, data_dir):
    done = tiny.run(tiny.command(tmp_path / "run", data_dir, debug__nans=True, train__learning_rate=1e30))
    assert done.returncode == 1
    assert "vpvae_jax/models/" in done.stderr  # the line of the network
    assert done.stderr.splitlines()[-1].startswith("error: invalid value (nan) encountered in ")


@pytest.mark.reliability
def test_a_profile_of_some_steps_is_left(tmp_path, data_dir):
    workdir = tmp_path / "run"
    done = tiny.run(tiny.command(workdir, data_dir, debug__profile_steps=2, eval__splits="('test',)"))
    assert done.returncode == 0, done.stderr
    assert list((workdir / "profile").rglob("*.xplane.pb"))
