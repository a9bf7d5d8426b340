"""Tables and page of several runs, made of real work directories; the page in a real browser where there is one."""

import csv
import html.parser
import io
import json
import os
import re
import shutil
import subprocess

import pytest

from vpvae_jax.errors import CheckpointError, ConfigError
from vpvae_jax.evaluation import report
from vpvae_jax.evaluation.collection import markdown, read_runs, table_csv
from vpvae_jax.evaluation.page import page
from vpvae_jax.evaluation.paper_numbers import nominal_size, paper_numbers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
EVIL = '<img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture(scope="module")
def workdirs(trained, tmp_path_factory):
    """Three finished runs: one as it is, one that is called COCO, one whose examples have dangerous names."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("first", "coco", "evil"):
        shutil.copytree(trained, root / name)
    for file in (root / "coco" / "eval").iterdir():
        file.rename(file.with_name(file.name.replace("photos-test", "coco_2017-validation")))
    edit(root / "coco" / "config.json", lambda config: config["quantizer"].update(codebook_size=1024))
    edit(root / "coco" / "eval" / "coco_2017-validation.json", lambda results: results.update(psnr_db=31.0, lpips=0.5))
    edit(root / "evil" / "eval" / "photos-test.json", rename)
    edit(root / "evil" / "eval" / "photos-test.json", lambda results: results.update(ssim=None))
    return [root / name for name in ("first", "coco", "evil")]


def rename(results):
    results["examples"][0]["name"] = EVIL


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def runs(workdirs):
    return read_runs(workdirs)


class TestTables:
    def test_ours_stand_beside_the_papers(self, runs):
        text = markdown(runs)
        (coco,) = re.findall(r"^\| coco \|.*31\.00.*$", text, re.MULTILINE)
        cells = [cell.strip() for cell in coco.strip("|").split("|")]
        assert cells[:4] == ["coco", "vp", "1024", "31.00 (23.89)"]  # tables 1 and 3 of the paper
        assert "0.500 (0.172)" in cells
        tables = dict(re.findall(r"^### (\S+)\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL))
        assert list(tables) == ["coco_2017-validation", "photos-test", "photos-validation"]
        *_, first, evil = tables["photos-test"].splitlines()
        assert f"| {runs[0].results['photos-test']['psnr_db']:.2f} |" in first
        assert "(" not in first
        assert evil.split(" | ")[5] == "-"  # SSIM, which could not be scored

    def test_csv_holds_every_figure(self, runs):
        rows = list(csv.DictReader(io.StringIO(table_csv(runs))))
        found = {(row["run"], row["evaluation"], row["figure"]): row for row in rows}
        assert len(found) == len(rows) == 3 * 2 * 4 + 1
        assert float(found["first", "photos-test", "cvu"]["ours"]) == runs[0].results["photos-test"]["cvu"]
        assert found["first", "photos-test", "cvu"]["paper"] == ""
        assert (found["coco", "coco_2017-validation", "lpips"]["paper"]) == "0.1717"
        assert found["evil", "photos-test", "ssim"]["ours"] == ""

    def test_runs_of_one_name(self, workdirs):
        with pytest.raises(ConfigError, match="first: several work directories of this name"):
            read_runs([workdirs[0], workdirs[0]])

    def test_a_directory_without_evaluations(self, workdirs, tmp_path):
        with pytest.raises(CheckpointError, match="holds no evaluation"):
            read_runs([workdirs[0], tmp_path])

    def test_damaged_arrays(self, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        (tmp_path / "run" / "eval" / "photos-test.npz").write_bytes(b"PK")
        with pytest.raises(CheckpointError, match="is missing or damaged"):
            read_runs([tmp_path / "run"])


class TestPaperNumbers:
    VP = {"name": "vp", "codebook_size": 1024, "accept": "metropolis", "mean_weight": 0.1, "variance_weight": 0.07}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("quantizer", "psnr"),
        [
            (VP, 23.8878),
            (VP | {"mean_weight": 0.0, "variance_weight": 0.0}, 24.0219),
            (VP | {"accept": "always"}, 23.8053),
            ({"name": "fsp", "activation": "tanh", "levels": [8, 5, 5, 5]}, 24.1910),
            ({"name": "fsp", "activation": "normal", "levels": (8, 5, 5, 5)}, 24.2945),
            ({"name": "fsp", "activation": "laplace", "levels": (8, 5, 5, 5)}, 24.2433),
            ({"name": "vq", "codebook_size": 256}, 23.1662),
        ],
    )
    def test_of_a_method(self, quantizer, psnr):
        assert paper_numbers(quantizer, "coco_2017-validation")["psnr_db"] == pytest.approx(psnr)

    def test_what_the_paper_does_not_have(self):
        assert paper_numbers(self.VP, "photos-test") == {}
        assert paper_numbers(self.VP | {"codebook_size": 64}, "coco_2017-validation") == {}
        assert paper_numbers({"name": "none", "codebook_size": 1024}, "coco_2017-validation") == {}
        assert "cvu" not in paper_numbers(
            {"name": "vq", "codebook_size": 256}, "librispeech_lazy_decode-test_clean+test_other"
        )

    def test_nominal_size(self):
        assert nominal_size({"levels": (8, 6, 5)}) == 256
        assert nominal_size({"levels": (4, 3)}) == 12
        assert nominal_size({"codebook_size": 256}) == 256


class Page(html.parser.HTMLParser):
    """What a page asks for and says."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.handlers, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset"):
                self.sources.append(value)
            if name.startswith("on"):
                self.handlers.append(value)


class TestPage:
    def test_holds_all_it_shows_and_escapes_what_it_says(self, runs):
        text = page(runs)
        parsed = Page(text)
        assert parsed.handlers == []
        assert len(parsed.sources) == parsed.tags.count("img")
        assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quoted&quot;" in text
        assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
        assert "default-src 'none'" in text

    def test_of_one_directory_and_of_several(self, workdirs, tmp_path, capsys):
        report.main([*map(str, workdirs), f"--output={tmp_path / 'new' / 'all'}"])
        assert sorted(os.listdir(tmp_path / "new" / "all")) == ["report.html", "table.csv", "table.md"]
        assert capsys.readouterr().out.count("\n") == 3
        assert report.write_report(workdirs[0])[-1] == workdirs[0] / "report.html"

    def test_errors_are_one_line(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as exit_:
            report.main([str(tmp_path), f"--output={tmp_path / 'out'}"])
        assert exit_.value.code == 1
        assert capsys.readouterr().err.startswith(f"error: {tmp_path}/eval holds no evaluation")
        assert not (tmp_path / "out").exists()


PROBE = """<script>
const result = {};
result.pictures = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
const table = document.querySelector("table.sortable");
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[3].textContent);
result.before = column();
const button = table.tHead.rows[0].cells[3].querySelector("button");
button.click(); result.ascending = column(); result.state = button.parentElement.getAttribute("aria-sort");
button.click(); result.descending = column();
const groups = [...document.querySelectorAll(".group")].sort((a, b) => b.children.length - a.children.length);
const lens = groups[0].querySelector(".lens"), box = lens.getBoundingClientRect();
const move = { bubbles: true, clientX: box.left + box.width / 4, clientY: box.top + box.height / 2 };
lens.dispatchEvent(new PointerEvent("pointermove", move));
result.zoomed = [...lens.closest(".group").querySelectorAll("img")].map((image) => image.style.transform);
result.origin = lens.querySelector("img").style.transformOrigin;
result.errors = window.failures;
document.body.innerHTML = "";
document.title = JSON.stringify(result);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_in_a_browser(workdirs, tmp_path):
    """Opened from disk: every picture loads, a click on a head sorts, a pointer magnifies a row, nothing fails."""
    runs = read_runs([workdirs[0], workdirs[2]])
    results = (runs[0].results["photos-test"], runs[1].results["photos-test"])
    results[0]["psnr_db"], results[1]["psnr_db"] = 9.5, 10.25  # as text they would sort the other way round
    listen = "<script>window.failures = []; window.onerror = (text) => window.failures.push(text);"
    listen += (
        'document.addEventListener("securitypolicyviolation", (e) => window.failures.push(e.blockedURI));</script>'
    )
    text = page(runs).replace("<style>", listen + "<style>", 1).replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(text)
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    result = json.loads(html.unescape(title))
    assert result["errors"] == []
    assert len(result["pictures"]) > 6
    assert all(result["pictures"])
    assert sorted(result["before"]) == ["10.25", "9.50"]
    assert result["ascending"] == ["9.50", "10.25"]
    assert result["state"] == "ascending"
    assert result["descending"] == ["10.25", "9.50"]
    assert set(result["zoomed"]) == {"scale(4)"}
    assert len(result["zoomed"]) == 3
    assert result["origin"].startswith("25% 50%")
