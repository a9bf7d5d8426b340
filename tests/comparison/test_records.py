import pytest

from vpvae_jax.comparison import records
from vpvae_jax.errors import CheckpointError


def run(method="vp", seed=0, psnr=25.123456, **values):
    row = {"method": method, "codebook_size": 256, "seed": seed, "quantizer": f"quantizer={method},eta=2"}
    return row | {"test_psnr_db": psnr, "settings": "0123"} | values


def test_what_is_added_is_read_again(tmp_path):
    assert records.read(tmp_path / "new", "runs") == []
    records.add(tmp_path / "new", "runs", [run(seed=1), run("fsp")])
    records.add(tmp_path / "new", "runs", [run(seed=0)])
    # A fingerprint of digits alone stays text.
    expected = [run("fsp", psnr=25.1235), run(seed=0, psnr=25.1235), run(seed=1, psnr=25.1235)]
    assert records.read(tmp_path / "new", "runs") == expected


def test_a_run_recorded_again_takes_the_place_of_its_row(tmp_path):
    records.add(tmp_path, "runs", [run(psnr=1.0), run(seed=1, psnr=2.0)])
    records.add(tmp_path, "runs", [run(psnr=3.0)])
    assert [row["test_psnr_db"] for row in records.read(tmp_path, "runs")] == [3.0, 2.0]


def test_rows_with_other_columns_are_refused(tmp_path):
    records.add(tmp_path, "runs", [run()])
    before = (tmp_path / "runs.csv").read_text()
    with pytest.raises(CheckpointError, match=r"runs\.csv has other columns .*\(valid_ssim\)"):
        records.add(tmp_path, "runs", [run(seed=1, valid_ssim=0.5)])
    assert (tmp_path / "runs.csv").read_text() == before


def test_nothing_to_add_makes_no_file(tmp_path):
    records.add(tmp_path, "curves", [])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "runs.csv").write_text("method,codebook_size,seed\nvp,256,zero\n")
    with pytest.raises(CheckpointError, match=r"runs\.csv is damaged .*move it away to start anew"):
        records.read(tmp_path, "runs")
