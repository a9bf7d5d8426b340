import pytest

from vpvae_jax.compare import records
from vpvae_jax.runtime.errors import CheckpointError


def run(method="vp", seed=0, psnr=25.123456, **values):
    row = {"method": method, "codebook_size": 256, "seed": seed, "quantizer": f"quantizer={method},eta=2"}
    return row | {"test_psnr_db": psnr, "settings": "0123"} | values


def add(directory, table, rows):
    for row in rows:
        records.record(directory, table, (row["method"], row["codebook_size"], row["seed"]), [row])


def test_what_is_added_is_read_again(tmp_path):
    assert records.read(tmp_path / "new", "runs") == []
    add(tmp_path / "new", "runs", [run(seed=1), run("fsp")])
    add(tmp_path / "new", "runs", [run(seed=0)])
    # A fingerprint of digits only stays text.
    expected = [run("fsp", psnr=25.1235), run(seed=0, psnr=25.1235), run(seed=1, psnr=25.1235)]
    assert records.read(tmp_path / "new", "runs") == expected


def test_a_run_recorded_again_replaces_its_row(tmp_path):
    add(tmp_path, "runs", [run(psnr=1.0), run(seed=1, psnr=2.0)])
    add(tmp_path, "runs", [run(psnr=3.0)])
    assert [row["test_psnr_db"] for row in records.read(tmp_path, "runs")] == [3.0, 2.0]


def test_rows_with_other_columns_are_refused(tmp_path):
    add(tmp_path, "runs", [run()])
    before = (tmp_path / "runs.csv").read_text()
    with pytest.raises(CheckpointError, match=r"runs\.csv has other columns .*\(valid_ssim\)"):
        add(tmp_path, "runs", [run(seed=1, valid_ssim=0.5)])
    assert (tmp_path / "runs.csv").read_text() == before


def test_a_run_recorded_again_loses_rows_that_it_no_longer_has(tmp_path):
    def curve(seed, *steps):
        return [run(seed=seed) | {"step": step} for step in steps]

    records.record(tmp_path, "curves", ("vp", 256, 0), curve(0, 2, 4, 6))
    records.record(tmp_path, "curves", ("vp", 256, 1), curve(1, 2))
    records.record(tmp_path, "curves", ("vp", 256, 0), curve(0, 3, 6))
    assert [(row["seed"], row["step"]) for row in records.read(tmp_path, "curves")] == [(0, 3), (0, 6), (1, 2)]
    records.record(tmp_path, "curves", ("vp", 256, 0), [])
    records.record(tmp_path, "curves", ("vp", 256, 1), [])
    assert records.read(tmp_path, "curves") == []


def test_nothing_to_add_makes_no_file(tmp_path):
    records.record(tmp_path, "curves", ("vp", 256, 0), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", ["vp,256,zero", "vp,256", "vp,256,0,1"])
def test_a_damaged_file_is_named(tmp_path, row):
    (tmp_path / "runs.csv").write_text(f"method,codebook_size,seed\n{row}\n")
    with pytest.raises(CheckpointError, match=r"runs\.csv is damaged .*move it away to start again"):
        records.read(tmp_path, "runs")


def test_a_metric_without_a_score_is_kept_as_none(tmp_path):
    row = {"method": "vq", "codebook_size": 256, "seed": 0, "test_stoi": None}
    records.record(tmp_path, "runs", ("vq", 256, 0), [row])
    assert records.read(tmp_path, "runs") == [row]


def test_columns_in_another_order_are_the_same_columns(tmp_path):
    add(tmp_path, "runs", [run()])
    add(tmp_path, "runs", [dict(reversed(run(seed=1, psnr=2.0).items()))])
    assert [row["test_psnr_db"] for row in records.read(tmp_path, "runs")] == [25.1235, 2.0]
