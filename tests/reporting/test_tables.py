import csv
import io

from vpvae_jax.images.images import Images
from vpvae_jax.reporting import tables

HOSTILE = "a|b <img src=x> [c](d)\n| forged | \x1b[31m\u202e`e` *f* \\"


class TestMarkdown:
    def test_cells_are_text_whatever_they_hold(self):
        lines = tables.markdown(["run", "K"], [[HOSTILE, "256"]]).splitlines()
        assert lines[:2] == ["| run | K |", "| --- | --- |"]
        assert len(lines) == 3
        assert lines[2] == (
            r"| a\|b \<img src=x\> \[c\](d)\n\| forged \| \x1b\[31m\u202e\`e\` \*f\* \\ | 256 |"  # \n, two characters
        )

    def test_names_of_methods_stay_as_they_are(self):
        assert tables.markdown(["method"], [["vp_no_norm"]]).endswith("| vp_no_norm |\n")


class TestAligned:
    def test_columns_end_below_each_other(self):
        assert tables.aligned(["", "PSNR dB"], [["test", "9.50"], ["x", "10.25"]]) == (
            "      PSNR dB\ntest     9.50\nx       10.25"
        )

    def test_a_name_cannot_add_a_line(self):
        assert len(tables.aligned(["", "b"], [[HOSTILE, "1"]]).splitlines()) == 2


def test_csv_holds_a_row_a_line():
    rows = list(csv.reader(io.StringIO(tables.comma_separated(["run", "ours", "paper"], [['a,"b"\n', 0.1, None]]))))
    assert rows == [["run", "ours", "paper"], ['a,"b"\\n', "0.1", ""]]


def test_mean_and_sample_deviation():
    # Deviations from the mean 26.5 are 1.5, 0.5 and 2: sqrt(6.5 / 2).
    assert tables.mean_and_deviation([25.0, 26.0, None, 28.5], 2) == "26.50 ± 1.80"
    assert tables.mean_and_deviation([None, 25.0], 2) == "25.00"
    assert tables.mean_and_deviation([None], 2) == "-"


def test_metrics_without_weights_are_named():
    results = {"num_examples": 2, "num_tokens": 512, "num_codes_used": 9, "codebook_size": 16, "num_skipped": 1}
    results |= {"psnr_db": 25.0, "psnr_db_continuous": 26.0, "ssim": None, "cvu": 0.5, "cvu_ceiling": 0.985}
    heads, row, *lacking = tables.results_table({("photos-test", "k16"): results}, Images.metrics).splitlines()
    assert " ".join(heads.split()) == "tokenizer examples tokens PSNR dB continuous dB SSIM CVU codes used skipped"
    assert " ".join(row.split()) == "photos-test k16 2 512 25.00 26.00 - 0.500 (equal use 0.985) 9/16 1"
    assert lacking == [
        "without LPIPS: it needs --config.eval.lpips_weights",
        "without rFID: it needs --config.eval.inception_weights",
    ]
