import itertools

import jax
import numpy as np
import pytest

from vpvae_jax.comparison import records, report
from vpvae_jax.comparison.output_distribution import uniform_outputs
from vpvae_jax.modalities import IMAGES
from vpvae_jax.quantizers import fsp, fsq


def _rate(num_codes):
    return np.log2(num_codes) / 16


def row(method, seed, psnr, *, codebook_size=256, num_codes=256):
    figures = {"psnr_db": psnr, "psnr_db_continuous": psnr + 1, "ssim": 0.5, "cvu": 0.25}
    identity = {"method": method, "codebook_size": codebook_size, "seed": seed, "num_codes": num_codes}
    return identity | {f"test_{name}": value for name, value in figures.items()}


def record(directory, table, rows):
    for (method, size, seed), group in itertools.groupby(rows, lambda r: (r["method"], r["codebook_size"], r["seed"])):
        records.record(directory, table, (method, size, seed), list(group))


def test_table_has_mean_and_sample_deviation_over_seeds():
    runs = [row("fsp", 0, 24.0, num_codes=240), row("vp", 0, 25.0), row("vp", 1, 26.0), row("vp", 2, 28.5)]
    lines = report.markdown_table(runs, order=["vp", "fsp"], figures=IMAGES.figures).splitlines()
    assert lines[0].startswith("| K | method | codes | runs | test: PSNR dB |")
    # Deviations from the mean 26.5 are 1.5, 0.5 and 2: sqrt(6.5 / 2).
    assert lines[2].startswith("| 256 | vp | 256 | 3 | 26.50 ± 1.80 | 27.50 ± 1.80 | 0.500 ± 0.000 |")
    assert lines[3] == "| 256 | fsp | 240 | 1 | 24.00 | 25.00 | 0.500 | 0.250 |"
    assert len({line.count("|") for line in lines}) == 1


def test_table_goes_by_codebook_size_and_leaves_out_what_is_not_asked_for():
    runs = [row("vp", 0, 25.0, codebook_size=1024), row("vp", 0, 24.0), row("fsp", 0, 23.0)]
    lines = report.markdown_table(runs, order=["vp"], figures=IMAGES.figures).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["256", "1024"]


@pytest.mark.slow
def test_report_draws_every_figure(tmp_path):
    record(tmp_path, "runs", [row("vp", 0, 25.0), row("vp", 0, 24.0, codebook_size=64, num_codes=64)])
    record(tmp_path, "curves", [row("vp", 0, 20.0 + step) | {"step": step} for step in (1, 2)])
    paths = report.write_report(
        tmp_path, rate=_rate, modality=IMAGES, methods=["vp"], ablations=["vp_auto"], curve_split="test"
    )
    figures = ["over_training.png", "rate_distortion.png", "output_distribution.png"]
    assert [path.name for path in paths] == ["table.md", *figures]
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.slow
def test_ablations_have_a_table_of_their_own(tmp_path):
    record(tmp_path, "runs", [row("vp", 0, 25.0), row("vp_auto", 0, 24.0)])
    report.write_report(
        tmp_path, rate=_rate, modality=IMAGES, methods=["vp"], ablations=["vp_auto"], curve_split="test"
    )
    first, second = (tmp_path / "table.md").read_text().split("\n\n")
    assert ("| vp |" in first, "| vp_auto |" in first) == (True, False)
    assert ("| vp |" in second, "| vp_auto |" in second) == (False, True)


def test_curves_show_usage_fidelity_and_the_cost_of_quantization():
    curves = [row("vp", 0, 20.0 + step) | {"step": step} for step in (2, 1)] + [row("fsp", 0, 9.0) | {"step": 1}]
    figure = report._draw_over_training(curves, ["vp"], "test", IMAGES)
    lines = [axes.lines for axes in figure.axes]
    assert [len(of_axes) for of_axes in lines] == [1, 1, 1]  # fsp is not asked for
    expected = ([0.25, 0.25], [21.0, 22.0], [1.0, 1.0])
    for (line,), values in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([[1, 2], values], axis=1))


def test_rate_is_bits_of_an_index_over_the_pixels_of_a_token():
    runs = [row("vp", 0, 25.0), row("vp", 1, 27.0), row("vp", 0, 24.0, codebook_size=64, num_codes=64)]
    figure = report._draw_rate_distortion(runs, [], _rate, ["vp"], "test", IMAGES)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[6 / 16, 24.0], [8 / 16, 26.0]])


class TestOutputDistribution:
    @pytest.mark.slow
    def test_fsq_gives_its_codes_alone(self):
        outputs = uniform_outputs(fsq((4,)), jax.random.key(0), 10_000)
        assert set(np.round(outputs, 5)) == {-1.0, -0.5, 0.0, 0.5}

    @pytest.mark.slow
    def test_fsp_stays_uniform(self):
        outputs = uniform_outputs(fsp((4,), quantize_rate=0.0), jax.random.key(0), 100_000)
        counts = np.histogram(outputs, 8, range=(-np.sqrt(3), np.sqrt(3)))[0]
        assert counts.sum() == 100_000
        np.testing.assert_allclose(counts / 12_500, 1, atol=0.04)

    def test_noise_leaves_the_ends_of_symmetric_fsq_thin(self):
        outputs = uniform_outputs(fsq((4,), symmetric=True, noise_rate=1.0), jax.random.key(0), 100_000)
        assert outputs.max() == pytest.approx(1.25, abs=0.01)  # half a step of noise beyond the end
        counts = np.histogram(outputs, 10, range=(-1.25, 1.25))[0]
        assert counts[0] < 0.4 * counts[5]
