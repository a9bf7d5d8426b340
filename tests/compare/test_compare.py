"""A grid trained for real, in processes of its own."""

import json

import pytest
from absl import flags
from ml_collections import config_flags

from tests import tiny
from vpvae_jax.compare import grid, records
from vpvae_jax.compare.compare import compare
from vpvae_jax.compare.settings import Comparison, load_comparison
from vpvae_jax.runtime.errors import ConfigError, UserError
from vpvae_jax.runtime.lock import hold


def comparison(data_dir, **values):
    overrides = {key: value for key, value in tiny.settings(data_dir).items() if not key.startswith("quantizer.")}
    defaults = {
        "codebook_sizes": (16,),
        "methods": (("vp", "quantizer=vp"),),
        "ablation_codebook_size": 16,
        "curve_seeds": (0,),
        "curve_split": "test",
        "refit_methods": ("vp",),
        "refit_trained_at": (16,),
        "refit_codebook_sizes": (4,),
        "overrides": overrides,
    }
    return Comparison(**defaults | values)


class TestListRuns:
    def test_seeds_go_round_the_grid(self, data_dir):
        values = {
            "seeds": (0, 1),
            "codebook_sizes": (16, 64),
            "ablations": (("vp_always", "quantizer=vp,accept=always"),),
        }
        runs = grid.list_runs(comparison(data_dir, **values, rate_methods=("vp",), rate_codebook_sizes=(256,)))
        main = ["vp-16-0", "vp-64-0", "vp-16-1", "vp-64-1"]
        assert [run.name for run in runs] == [*main, "vp_always-16-0", "vp-256-0"]

    def test_a_run_named_twice_is_refused(self, data_dir):
        with pytest.raises(ConfigError, match="vp-16-0 would be trained twice"):
            grid.list_runs(comparison(data_dir, rate_methods=("vp",), rate_codebook_sizes=(16,)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"curve_split": "valid"}, "curve_split=valid: expected one of eval.splits"),
        ({"rate_methods": ("vq",), "rate_codebook_sizes": (64,)}, "rate_methods has vq, no method of the comparison"),
        ({"method_overrides": {"vpp": {}}}, "vpp, no method of the comparison: did you mean vp?"),
        ({"method_overrides": {"vp": {"train.learning_rat": 1e-3}}}, "did you mean train.learning_rate?"),
        ({"method_overrides": {"vp": 3}}, r"method_overrides\['vp'\]=3: expected a dict"),
        ({"overrides": [1]}, r"overrides=\[1\]: expected a dict, such as {'train.num_steps': 20}"),
        ({"overrides": {"train": {"num_steps": 3}}}, "train is a section"),
        ({"seeds": ("a",)}, "seeds=.* expected whole numbers"),
        ({"methods": (("vp",),)}, "methods=.* expected pairs of a name and an argument"),
        ({"config": "photo"}, "photo is neither a file nor a config of the package: did you mean photos?"),
        ({"refit_codebook_sizes": (100_000,)}, "max_latents=512 latents cannot make a codebook of 100000 codes"),
        ({"methods": (("vq", "quantizer=vq"),), "refit_methods": ("vq",)}, "vq has its codebook from training"),
        ({"methods": (("vp", "quantizer=vpp"),)}, "quantizer=vpp: did you mean vp?"),
        ({"methods": (("vp", "quantizer=vp,k_radius=2.5"),)}, "k_radius=2.5: expected a whole number"),
        ({"curve_seeds": (1,)}, "curve_seeds=.* expected none or one of seeds"),
        ({"seeds": ()}, "the comparison has no seeds"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(tmp_path, data_dir, values, message):
    with pytest.raises(ConfigError, match=message):
        compare(comparison(data_dir, **values), tmp_path / "results", tmp_path / "runs")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
class TestCommandLine:
    def parse(self, tmp_path, *words):
        file = tmp_path / "grid.py"
        file.write_text(
            "from vpvae_jax.compare.settings import Comparison\n"
            "def get_config():\n"
            "    return Comparison(methods=(('vp', 'quantizer=vp'),), overrides={'log.every': 3})\n"
        )
        words = ["program", f"--comparison={file}", *words]
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("comparison", flag_values=values, sys_argv=words)
        values(words)
        return values.comparison

    def test_sets_keys(self, tmp_path):
        words = ["seeds=(0, 1)", "codebook_sizes=64", "curve_split=test", "ablation_codebook_size=64"]
        made = self.parse(tmp_path, *(f"--comparison.{word}" for word in words))
        assert (made.seeds, made.codebook_sizes, made.curve_split) == ((0, 1), (64,), "test")
        assert made.ablation_codebook_size == 64
        assert made.overrides_of("vp") == {"log.every": 3}
        grid.check_comparison(made)

    def test_sets_overrides(self, tmp_path):
        made = self.parse(tmp_path, "--comparison.overrides={'train.num_steps': 20, 'train.warmup_steps': 2}")
        assert made.overrides_of("vp") == {"train.num_steps": 20, "train.warmup_steps": 2}

    def test_refuses_keys_that_do_not_exist(self, tmp_path):
        with pytest.raises((flags.Error, AttributeError, KeyError, ValueError), match="seed"):
            self.parse(tmp_path, "--comparison.seed=3")


def test_a_comparison_comes_back_from_json(data_dir):
    made = comparison(data_dir, method_overrides={"vp": {"train.num_steps": 3}})
    assert Comparison.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_runs_of_another_comparison_are_not_mixed_in(tmp_path, data_dir):
    metrics = {f"test_{name}": 1.0 for name in ("psnr_db", "psnr_db_continuous", "ssim", "cvu")}
    row = {"method": "vp", "codebook_size": 16, "seed": 7, "num_codes": 16, **metrics, "settings": "0"}
    records.record(tmp_path, "runs", ("vp", 16, 7), [row])
    with pytest.raises(ConfigError, match="records vp-16-7, no run of this comparison"):
        compare(comparison(data_dir), tmp_path, tmp_path / "runs", report_only=True)


def test_overrides_of_a_method_win_over_those_of_all(data_dir):
    made = comparison(data_dir, methods=(("vp", "quantizer=vp"), ("vq", "quantizer=vq")))
    made.overrides["train.learning_rate"] = 1e-3
    made.method_overrides = {"vq": {"train.learning_rate": 1e-4}}
    configs = {run.method: grid.run_config(made, run) for run in grid.list_runs(made)}
    assert {name: config.train.learning_rate for name, config in configs.items()} == {"vp": 1e-3, "vq": 1e-4}
    assert configs["vp"].train.num_steps == configs["vq"].train.num_steps == 6


@pytest.mark.parametrize(
    "path", sorted((tiny.ROOT / "configs" / "comparisons").glob("*.py")), ids=lambda path: path.stem
)
def test_the_comparisons_of_the_repository_pass(path):
    grid.check_comparison(load_comparison(path))


def test_results_and_runs_need_two_directories(tmp_path, data_dir):
    with pytest.raises(ConfigError, match="give each a directory of its own"):
        compare(comparison(data_dir), tmp_path, tmp_path)


@pytest.mark.system
def test_a_config_that_changes_meanwhile_is_noticed(tmp_path, data_dir):
    made = comparison(data_dir)
    ((_, outcome),) = grid.do_runs(made, [grid.Job(grid.list_runs(made)[0], "another hash")], tmp_path, 1)
    assert "the config photos has changed since the comparison started" in str(outcome)


@pytest.mark.system
def test_a_run_of_another_process_is_left_alone(tmp_path, data_dir):
    made = comparison(data_dir)
    (run,) = grid.list_runs(made)
    with hold(tmp_path / run.name):
        ((_, outcome),) = grid.do_runs(made, [grid.Job(run, "0")], tmp_path, 1)
    assert f"another process is at work in {tmp_path / run.name}" in str(outcome)


def test_two_comparisons_do_not_share_a_directory(tmp_path, data_dir):
    with hold(tmp_path), pytest.raises(ConfigError, match="another process is at work in"):
        compare(comparison(data_dir), tmp_path, tmp_path / "runs")


def test_settings_tell_runs_apart(data_dir):
    made = comparison(data_dir)
    arguments = ("quantizer=vp", "quantizer=vp,eta=1.25")
    runs = [grid.GridRun("vp", argument, 16, seed) for argument in arguments for seed in (0, 1)]
    hashes = [grid.settings_hash(grid.run_config(made, run)) for run in runs]
    assert len(set(hashes)) == 4
    assert hashes[0] == grid.settings_hash(grid.run_config(made, runs[0]))


def test_the_place_of_a_file_of_weights_is_not_counted(data_dir):
    made = comparison(data_dir)
    configs = [grid.run_config(made, grid.GridRun("vp", "quantizer=vp", 16, 0)) for _ in range(3)]
    configs[0].eval.lpips_weights = "here"
    configs[1].eval.lpips_weights = "there"
    configs[2].loss.lpips_weights = "there"
    assert len({grid.settings_hash(config) for config in configs}) == 1


@pytest.mark.parametrize(
    ("key", "value", "is_counted"),
    [
        ("quantizer.k_density", 9, True),
        ("quantizer.latent_norm.mean_weight", 0.5, True),
        ("codebook.max_latents", 500, True),
        ("eval.splits", ("test",), True),
        ("eval.num_pictures", 5, False),
        ("log.every", 7, False),
        ("debug.nans", True, False),
        ("debug.profile_steps", 3, False),
        ("checkpoint.keep_best", 2, False),
        ("eval.lpips_weights", "here/lpips.safetensors", True),
        ("loss.lpips_weights", "elsewhere/lpips.safetensors", True),  # the metric's too, by default
        ("data.data_dir", "elsewhere", False),
    ],
)
def test_the_fingerprint_counts_what_changes_results(data_dir, key, value, is_counted):
    made = comparison(data_dir)
    (run,) = grid.list_runs(made)
    before = grid.settings_hash(grid.run_config(made, run))
    made.overrides[key] = value
    assert (grid.settings_hash(grid.run_config(made, run)) != before) == is_counted


def test_the_path_of_a_file_of_weights_does_not_count(data_dir):
    made = comparison(data_dir)
    (run,) = grid.list_runs(made)
    hashes = set()
    for folder in ("here", "there"):
        made.overrides["eval.inception_weights"] = f"{folder}/inception.safetensors"
        hashes.add(grid.settings_hash(grid.run_config(made, run)))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("name", "results"),
    [("photos", "photos/comparison"), ("photos_long", "photos/long"), ("speech", "speech/comparison")],
)
def test_what_is_recorded_is_what_the_files_ask_for(name, results):
    """No change of a config accidentally asks for hours of training again."""
    made = load_comparison(tiny.ROOT / "configs" / "comparisons" / f"{name}.py")
    runs = {(run.method, run.codebook_size, run.seed): run for run in grid.list_runs(made)}
    for row in records.read(tiny.ROOT / "results" / results, "runs"):
        run = runs[row["method"], row["codebook_size"], row["seed"]]
        assert row["settings"] == grid.settings_hash(grid.run_config(made, run)), run.name


@pytest.mark.system
@pytest.mark.parametrize("values", [{}, {"curve_seeds": (), "refit_methods": ("vp",)}])
def test_curves_and_refits_that_were_not_made_are_asked_for(tmp_path, data_dir, values):
    made = comparison(data_dir, **values)
    (run,) = grid.list_runs(made)
    metrics = {f"test_{name}": 1.0 for name in ("psnr_db", "psnr_db_continuous", "ssim", "cvu")}
    row = {"method": "vp", "codebook_size": 16, "seed": 0, "num_codes": 16, **metrics}
    row["settings"] = grid.settings_hash(grid.run_config(made, run))
    records.record(tmp_path, "runs", ("vp", 16, 0), [row])
    with pytest.raises(ConfigError, match="records vp-16-0 without the curve or the refits"):
        compare(made, tmp_path, tmp_path / "runs", report_only=True)
    made.curve_seeds, made.refit_methods = (), ()
    compare(made, tmp_path, tmp_path / "runs", report_only=True)


@pytest.mark.system
def test_a_grid_is_trained_recorded_and_resumed(tmp_path, data_dir, capsys):
    results, workdir = tmp_path / "results", tmp_path / "runs"
    # FSP diverges: what fails is named, and the others are done.
    made = comparison(data_dir, methods=(("vp", "quantizer=vp"), ("fsp", "quantizer=fsp,latent_norm.mean_weight=1e38")))

    with pytest.raises(UserError, match=r"1 of 2 runs failed \(fsp-16-0: .* is (nan|inf) at step"):
        compare(made, results, workdir, num_jobs=2)

    (row,) = records.read(results, "runs")
    assert (row["method"], row["codebook_size"], row["seed"], row["num_codes"]) == ("vp", 16, 0, 16)
    assert 5 < row["test_psnr_db"] < 40
    assert 0 < row["test_cvu"] <= 1
    curve = records.read(results, "curves")
    assert [point["step"] for point in curve] == [2, 4, 6]
    assert curve[-1]["test_psnr_db"] == row["test_psnr_db"]
    (refit,) = records.read(results, "refits")
    assert (refit["num_codes"], refit["test_psnr_db_continuous"]) == (4, row["test_psnr_db_continuous"])
    assert refit["test_psnr_db"] != row["test_psnr_db"]

    made.methods = (("vp", "quantizer=vp"),)
    capsys.readouterr()
    compare(made, results, tmp_path / "unused")
    assert "| 16 | vp | 16 | 1 |" in capsys.readouterr().out
    assert not (tmp_path / "unused").exists()

    made.overrides["train.learning_rate"] = 1e-3
    with pytest.raises(ConfigError, match=r"runs\.csv records vp-16-0 with other settings"):
        compare(made, results, workdir)


def test_a_process_that_dies_is_named(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(grid.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"vp-16-0: its process ended with 1, the reason is in .*log\.txt"):
        compare(comparison(data_dir), tmp_path / "results", tmp_path / "runs")


def test_a_report_of_nothing_is_refused(tmp_path, data_dir):
    with pytest.raises(UserError, match="records no run: run without --report_only"):
        compare(comparison(data_dir), tmp_path / "results", tmp_path / "runs", report_only=True)
