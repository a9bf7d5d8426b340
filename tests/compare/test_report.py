import itertools

import jax
import matplotlib.figure
import numpy as np
import pytest

from vpvae_jax.compare import records, report
from vpvae_jax.compare.output_distribution import uniform_outputs
from vpvae_jax.images.images import Images
from vpvae_jax.images.settings import VQGAN, ImageData, ImageEval, ImageLoss
from vpvae_jax.quantizers import fsp, fsq

PSNR = Images.metrics[0]


@pytest.fixture
def images():
    """Images with f = 4: log2(K) / 16 bits a pixel."""
    return Images(ImageData(), VQGAN(channel_multipliers=(1, 1, 1)), ImageLoss(), ImageEval())


def row(method, seed, psnr, *, codebook_size=256, num_codes=256):
    metrics = {"psnr_db": psnr, "psnr_db_continuous": psnr + 1, "ssim": 0.5, "cvu": 0.25}
    metrics |= {"cvu_ceiling": 0.875, "num_tokens": 512}
    identity = {"method": method, "codebook_size": codebook_size, "seed": seed, "num_codes": num_codes}
    return identity | {f"test_{name}": value for name, value in metrics.items()}


def record(directory, table, rows):
    for (method, size, seed), group in itertools.groupby(rows, lambda r: (r["method"], r["codebook_size"], r["seed"])):
        records.record(directory, table, (method, size, seed), list(group))


def test_table_has_mean_and_sample_deviation_over_seeds():
    runs = [row("fsp", 0, 24.0, num_codes=240), row("vp", 0, 25.0), row("vp", 1, 26.0), row("vp", 2, 28.5)]
    lines = report.markdown_table(runs, order=["vp", "fsp"], metrics=Images.metrics).splitlines()
    assert lines[0].startswith("| K | method | codes | runs | test: PSNR dB |")
    assert lines[0].endswith("| test: CVU, 512 tokens |")
    # Deviations from the mean 26.5 are 1.5, 0.5 and 2: sqrt(6.5 / 2).
    assert lines[2].startswith("| 256 | vp | 256 | 3 | 26.50 ± 1.80 | 27.50 ± 1.80 | 0.500 ± 0.000 |")
    assert lines[3] == "| 256 | fsp | 240 | 1 | 24.00 | 25.00 | 0.500 | 0.250 (equal use 0.875) |"
    assert len({line.count("|") for line in lines}) == 1


def test_table_goes_by_codebook_size_and_leaves_out_what_is_not_asked_for():
    runs = [row("vp", 0, 25.0, codebook_size=1024), row("vp", 0, 24.0), row("fsp", 0, 23.0)]
    lines = report.markdown_table(runs, order=["vp"], metrics=Images.metrics).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["256", "1024"]


def test_a_table_without_ceilings_shows_none():
    rows = [
        {key: value for key, value in row("vp", 0, 25.0).items() if key not in ("test_cvu_ceiling", "test_num_tokens")}
    ]
    heads, _, line = report.markdown_table(rows, ["vp"], Images.metrics).splitlines()
    assert heads.endswith("| test: SSIM | test: CVU |")
    assert line.endswith("| 0.500 | 0.250 |")


def test_names_stay_in_their_cell():
    (line,) = report.markdown_table([row("a|b\n", 0, 25.0)], ["a|b\n"], Images.metrics).splitlines()[2:]
    assert line.startswith(r"| 256 | a\|b\n | 256 | 1 |")


def test_report_draws_every_plot_and_gives_ablations_a_table_of_their_own(tmp_path, images, monkeypatch):
    monkeypatch.setattr(report, "draw_output_distribution", matplotlib.figure.Figure)  # tested below
    runs = [row("vp", 0, 25.0), row("vp", 0, 24.0, codebook_size=64, num_codes=64), row("vp_auto", 0, 23.0)]
    record(tmp_path, "runs", runs)
    record(tmp_path, "curves", [row("vp", 0, 20.0 + step) | {"step": step} for step in (1, 2)])
    record(tmp_path, "refits", [row("vp", 0, 22.0, num_codes=16)])
    paths = report.write_report(tmp_path, modality=images, methods=["vp"], ablations=["vp_auto"], curve_split="test")
    plots = ["over_training.png", "rate_distortion.png", "output_distribution.png"]
    assert [path.name for path in paths] == ["table.md", *plots]
    assert all(path.stat().st_size > 0 for path in paths)
    first, second = (tmp_path / "table.md").read_text().split("\n\n")
    assert ("| vp |" in first, "| vp_auto |" in first) == (True, False)
    assert ("| vp |" in second, "| vp_auto |" in second) == (False, True)


def test_curves_show_usage_metric_and_quantization_loss():
    curves = [row("vp", 0, 20.0 + step) | {"step": step} for step in (2, 1)] + [row("fsp", 0, 9.0) | {"step": 1}]
    plot = report._draw_over_training(curves, ["vp"], "test", PSNR)
    lines = [axes.lines for axes in plot.axes]
    assert [len(of_axes) for of_axes in lines] == [1, 1, 1]  # fsp is not asked for
    expected = ([0.25, 0.25], [21.0, 22.0], [1.0, 1.0])
    for (line,), values in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([[1, 2], values], axis=1))


def test_rate_is_bits_of_an_index_over_the_pixels_of_a_token(images):
    runs = [row("vp", 0, 25.0), row("vp", 1, 27.0), row("vp", 0, 24.0, codebook_size=64, num_codes=64)]
    plot = report._draw_rate_distortion(runs, [], ["vp"], "test", images)
    (line,) = plot.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[6 / 16, 24.0], [8 / 16, 26.0]])


class TestOutputDistribution:
    @pytest.mark.system
    def test_fsq_gives_only_its_codes(self):
        outputs = uniform_outputs(fsq((4,)), jax.random.key(0), 10_000)
        assert set(np.round(outputs, 5)) == {-1.0, -0.5, 0.0, 0.5}

    @pytest.mark.system
    def test_fsp_stays_uniform(self):
        outputs = uniform_outputs(fsp((4,), quantize_rate=0.0), jax.random.key(0), 100_000)
        counts = np.histogram(outputs, 8, range=(-np.sqrt(3), np.sqrt(3)))[0]
        assert counts.sum() == 100_000
        np.testing.assert_allclose(counts / 12_500, 1, atol=0.04)

    @pytest.mark.system
    def test_noise_leaves_the_ends_of_symmetric_fsq_thin(self):
        outputs = uniform_outputs(fsq((4,), symmetric=True, noise_rate=1.0), jax.random.key(0), 100_000)
        assert outputs.max() == pytest.approx(1.25, abs=0.01)  # half a step of noise beyond the end
        counts = np.histogram(outputs, 10, range=(-1.25, 1.25))[0]
        assert counts[0] < 0.4 * counts[5]
