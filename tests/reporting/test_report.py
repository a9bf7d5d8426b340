"""Tables and page of several runs, made of real work directories; the page in a real browser where there is one."""

import base64
import copy
import csv
import html.parser
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import scipy.io.wavfile

from tests import tiny
from vpvae_jax.config.files import load_config
from vpvae_jax.reporting import page as page_module
from vpvae_jax.reporting import report
from vpvae_jax.reporting.collection import markdown, read_run, read_runs, table_csv
from vpvae_jax.reporting.page import page
from vpvae_jax.reporting.paper_numbers import nominal_size, paper_numbers
from vpvae_jax.runtime.errors import CheckpointError, ConfigError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
EVIL = '<img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture(scope="module")
def workdirs(trained, tmp_path_factory):
    """Three finished runs: one as it is, one that says it is the paper's VP on COCO, one full of dangerous words."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("first", "coco", "evil"):
        shutil.copytree(trained, root / name)
    paper = load_config("coco", "quantizer=vp,codebook_size=1024").to_dict()
    edit(root / "coco" / "config.json", lambda config: config.update(quantizer=paper["quantizer"]))
    results = {"psnr_db": 31.0, "lpips": 0.5, "codebook_size": 1024, "config": {"data": paper["data"]}}
    edit(tiny.evaluation(root / "coco", "photos-test"), lambda old: old.update(results))
    edit(tiny.evaluation(root / "coco", "photos-test"), lambda old: old["data"].update(name="coco_2017-validation"))
    edit(tiny.evaluation(root / "evil", "photos-test"), lambda results: results["examples"][0].update(name=EVIL))
    edit(tiny.evaluation(root / "evil", "photos-test"), lambda results: results.update(ssim=None, num_skipped=7))
    return [root / name for name in ("first", "coco", "evil")]


def of(run, data):
    """The only evaluation of a run on some data."""
    (evaluation,) = (each for each in run.evaluations.values() if each.data == data)
    return evaluation


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def runs(workdirs):
    found, errors = read_runs(workdirs)
    assert errors == []
    return found


class TestTables:
    def test_ours_stand_beside_the_papers(self, runs):
        text = markdown(runs)
        (coco,) = re.findall(r"^\| coco \|.*31\.00.*$", text, re.MULTILINE)
        cells = [cell.strip() for cell in coco.strip("|").split("|")]
        assert cells[:5] == ["coco", "vp", "k16-step6", "1024", "31.00 (23.89)"]  # tables 1 and 3 of the paper
        assert "0.500 (0.172)" in cells
        tables = dict(re.findall(r"^### (\S+)\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL))
        assert list(tables) == ["coco_2017-validation", "photos-test", "photos-validation"]
        *_, first, evil = tables["photos-test"].splitlines()
        assert f"| {of(runs[0], 'photos-test').results['psnr_db']:.2f} |" in first
        assert "(" not in first.replace("(equal use", "")
        assert evil.split(" | ")[6] == "-"  # SSIM, which could not be scored

    @pytest.mark.usefixtures("without_charts")
    def test_cvu_stands_with_the_number_of_tokens_and_its_ceiling(self, workdirs, tmp_path, capsys):
        shutil.copytree(workdirs[0], tmp_path / "run")
        edit(
            tiny.evaluation(tmp_path / "run", "photos-test"),
            lambda results: results.update(cvu=0.64, cvu_ceiling=0.826, num_tokens=2912),
        )
        run = read_run(tmp_path / "run")
        assert "| 0.640 (equal use 0.826) | 2912 |" in markdown([run])
        assert re.search(r"<td[^>]*>0\.640 \(equal use 0\.826\)</td>.*<td[^>]*>2912</td>", page([run]))
        report.print_summary(tmp_path / "run")
        assert re.search(r"^photos-test .* 2912 .* 0\.640 \(equal use 0\.826\) ", capsys.readouterr().out, re.MULTILINE)

    def test_csv_holds_every_metric(self, runs):
        rows = list(csv.DictReader(io.StringIO(table_csv(runs))))
        found = {(row["run"], row["evaluation"], row["metric"]): row for row in rows}
        assert len(found) == len(rows) == 3 * 2 * (4 + 1) + 1
        assert float(found["first", "photos-test", "cvu"]["ours"]) == of(runs[0], "photos-test").results["cvu"]
        assert found["first", "photos-test", "cvu"]["paper"] == ""
        assert (found["coco", "coco_2017-validation", "lpips"]["paper"]) == "0.1717"
        assert found["evil", "photos-test", "ssim"]["ours"] == ""
        ceiling = of(runs[0], "photos-test").results["cvu_ceiling"]
        assert float(found["first", "photos-test", "cvu_ceiling"]["ours"]) == ceiling

    def test_a_codebook_of_another_size_is_not_the_papers(self, workdirs, tmp_path):
        shutil.copytree(workdirs[1], tmp_path / "coco")
        edit(tiny.evaluation(tmp_path / "coco", "photos-test"), lambda results: results.update(codebook_size=4096))
        text = markdown([read_run(tmp_path / "coco")])
        assert "| coco | vp | k16-step6 | 4096 | 31.00 |" in text

    def test_names_are_as_long_as_they_must_be(self, workdirs, tmp_path):
        for parent in ("a", "b"):
            shutil.copytree(workdirs[0], tmp_path / parent / "vp|1")
        runs, _ = read_runs([tmp_path / "a" / "vp|1", tmp_path / "b" / "vp|1"])
        assert [run.name for run in runs] == ["a/vp|1", "b/vp|1"]
        assert r"| a/vp\|1 | vp | k16-step6 |" in markdown(runs)
        with pytest.raises(ConfigError, match="given twice"):
            read_runs([workdirs[0], workdirs[0]])

    def test_directories_without_results_are_left_out(self, workdirs, tmp_path):
        runs, errors = read_runs([workdirs[0], tmp_path])
        assert len(runs) == 1
        assert "holds no evaluation" in str(errors[0])
        with pytest.raises(CheckpointError, match="holds no evaluation"):
            read_runs([tmp_path])

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("eval/photos-test.*.npz", b"PK"),
            ("eval/photos-test.*.json", b"[]"),
            ("eval/photos-test.*.json", b"{}"),
            ("eval/photos-test.*.json", b"{"),
            ("config.json", b'{"model": {"name": "unknown"}}'),
            ("metrics.jsonl", b"\xff\xfe"),
        ],
    )
    def test_damaged_files(self, trained, tmp_path, file, content):
        shutil.copytree(trained, tmp_path / "run")
        (path,) = (tmp_path / "run").glob(file)
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_run(tmp_path / "run")

    def test_flipped_bits(self, trained, tmp_path):
        """Whatever a flipped bit of the arrays does, it ends in a run or in an error of ours."""
        shutil.copytree(trained, tmp_path / "run")
        path = tiny.evaluation(tmp_path / "run", "photos-test").with_suffix(".npz")
        good, refused = path.read_bytes(), 0
        for position in np.random.default_rng(0).integers(0, 8 * len(good), 50):
            damaged = bytearray(good)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                read_run(tmp_path / "run")
            except CheckpointError:
                refused += 1
        assert refused > 35


class TestPaperNumbers:
    @pytest.mark.parametrize(
        ("argument", "psnr"),
        [
            ("quantizer=vp", 23.8878),
            ("quantizer=vp,latent_norm.mean_weight=0.0,latent_norm.variance_weight=0.0", 24.0219),
            ("quantizer=vp,accept=always", 23.8053),
            ("quantizer=fsp", 24.1910),
            ("quantizer=fsp,activation=normal", 24.2945),
            ("quantizer=fsp,activation=laplace", 24.2433),
            # What the paper does not have.
            ("quantizer=vp,accept=always,latent_norm.mean_weight=0.0,latent_norm.variance_weight=0.0", None),
            ("quantizer=vp,latent_norm.mean_weight=0.0", None),
            ("quantizer=vp,eta=2", None),
            ("quantizer=vp,move=neighbor", None),
            ("quantizer=fsp,uniformity_weight=0.1", None),
            ("quantizer=fsq,symmetric=False", None),
            ("quantizer=vq,update=ema", None),
            ("quantizer=none", None),
        ],
    )
    def test_of_a_method(self, argument, psnr):
        config = load_config("coco", f"{argument},codebook_size=1024").to_dict()
        numbers = paper_numbers(config["quantizer"], 1024, "coco_2017-validation", config["data"])
        assert numbers.get("psnr_db") == psnr

    @pytest.mark.parametrize("method", ["vp", "fsp", "fsq", "vq", "simvq", "tokenbridge"])
    @pytest.mark.parametrize("size", [256, 1024, 4096, 16384])
    @pytest.mark.parametrize("data_set", ["coco_2017", "imagenet2012"])
    def test_every_row_of_tables_1_and_2_has_a_config(self, method, size, data_set):
        config = load_config("coco", f"quantizer={method},codebook_size={size}").to_dict()
        numbers = paper_numbers(config["quantizer"], size, f"{data_set}-validation", config["data"])
        assert numbers.keys() == {"psnr_db", "ssim", "lpips", "cvu"}

    def test_other_data_and_sizes(self):
        config = load_config("coco", "quantizer=vp,codebook_size=1024").to_dict()
        settings, data = config["quantizer"], config["data"]
        assert paper_numbers(settings, 1024, "photos-test", data) == {}
        assert paper_numbers(settings, 4096, "coco_2017-validation", data) == {}
        assert paper_numbers(settings, 100, "coco_2017-validation", data) == {}
        assert paper_numbers(settings, 1024, "coco_2017-validation", data | {"eval_crop": 64}) == {}

    def test_speech(self):
        evaluation = "librispeech_lazy_decode-test_clean+test_other"
        for method, has_cvu in (("fsp", True), ("vq", False)):  # the paper leaves out what collapsed
            config = load_config("librispeech", f"quantizer={method},codebook_size=256").to_dict()
            assert ("cvu" in paper_numbers(config["quantizer"], 256, evaluation, config["data"])) == has_cvu

    def test_nominal_size(self):
        assert nominal_size({"levels": (8, 6, 5)}, 240) == 256
        assert nominal_size({"levels": [4, 3]}, 12) == 12
        assert nominal_size({"codebook_size": 256}, 64) == 64


@pytest.fixture
def without_charts(monkeypatch):
    """Pages of tests that look at something else: drawing takes seconds."""
    monkeypatch.setattr(
        page_module, "_chart", lambda chart, label: {"label": label, "source": "data:image/png;base64,"}
    )


def showing(run, shown, name=None):
    """The run with one evaluation, which kept these examples."""
    evaluation = of(run, "photos-test")._replace(shown=shown)
    return run._replace(name=name or run.name, evaluations={"photos-test": evaluation})


class Page(html.parser.HTMLParser):
    """What a page asks for and says."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.handlers, self.tags, self.policies = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policies.append(dict(attributes)["content"])
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset"):
                self.sources.append(value)
            if name.startswith("on"):
                self.handlers.append(value)


class TestPage:
    def test_holds_all_it_shows_and_escapes_what_it_says(self, runs):
        hostile = [runs[0]._replace(name=EVIL, evaluations={EVIL: of(runs[0], "photos-test")}), runs[2]]
        text = page(hostile)
        parsed = Page(text)
        assert parsed.handlers == []
        assert len(parsed.sources) == parsed.tags.count("img")
        assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#34;quoted&#34;" in text
        assert text.startswith("<!DOCTYPE html>\n")
        assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
        assert all(policy.startswith("default-src 'none';") for policy in parsed.policies)
        assert len(parsed.policies) == 1

    @pytest.mark.parametrize(
        "key", ["num_codes_used", "num_skipped", "num_examples", "num_tokens", "cvu_ceiling", "psnr_db"]
    )
    def test_what_should_be_a_number_is_one(self, workdirs, tmp_path, key):
        """Words could end the attribute that holds a number, and add a handler."""
        shutil.copytree(workdirs[0], tmp_path / "run")
        edit(
            tiny.evaluation(tmp_path / "run", "photos-test"),
            lambda results: results.update({key: '1"><style onload="x()">'}),
        )
        with pytest.raises(CheckpointError, match="damaged"):
            read_run(tmp_path / "run")

    @pytest.mark.usefixtures("without_charts")
    def test_another_crop_is_another_example(self, runs):
        other = [
            shown._replace(arrays={row: array[:32] for row, array in shown.arrays.items()})
            for shown in of(runs[0], "photos-test").shown
        ]
        text = page([showing(runs[0], of(runs[0], "photos-test").shown), showing(runs[0], other, "cropped")])
        assert text.count("<figcaption>original</figcaption>") == 2 * len(other)
        assert text.count("<figcaption>cropped</figcaption>") == len(other)

    @pytest.mark.usefixtures("without_charts")
    def test_size_is_bounded(self, runs):
        (shown, *_) = of(runs[0], "photos-test").shown
        large = {row: np.zeros((900, 1500, 3), np.uint8) for row in shown.arrays}
        text = page([showing(runs[0], [shown._replace(name=str(i), arrays=large) for i in range(12)])])
        # A label is the caption and the alternative text.
        assert text.count("original, 1500 x 900 made smaller") == 8 + 8
        assert "4 more are in the work directories" in text

    @pytest.mark.usefixtures("without_charts")
    def test_recordings_are_played(self, runs):
        (shown, *_) = of(runs[0], "photos-test").shown
        clip = {row: np.sin(np.arange(25 * 16_000, dtype=np.float32)) for row in shown.arrays}
        text = page([showing(runs[0], [shown._replace(arrays=clip)])])
        (wav, *_) = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)">', text)
        rate, samples = scipy.io.wavfile.read(io.BytesIO(base64.b64decode(wav)))
        assert (rate, samples.shape, samples.dtype) == (16_000, (20 * 16_000,), np.int16)
        assert "original, the first 20 s" in text

    @pytest.mark.system
    def test_names_that_are_no_text(self, workdirs, tmp_path):
        """Names of files may be any bytes, formulas, or begin so that a legend leaves them out."""
        names = ["_a$^$b", os.fsdecode(b"caf\xe9")]
        for name in names:
            shutil.copytree(workdirs[0], tmp_path / name)
            edit(
                tiny.evaluation(tmp_path / name, "photos-test"),
                lambda results: results["examples"][0].update(name="$5_$x_"),
            )
        report.write_reports([tmp_path / name for name in names], tmp_path / "out")
        assert len(report.write_report(tmp_path / names[0])) > 3

    @pytest.mark.system
    def test_of_one_directory_and_of_several(self, workdirs, tmp_path):
        paths = report.write_reports(workdirs, tmp_path / "new" / "all")
        assert sorted(path.name for path in paths) == ["report.html", "table.csv", "table.md"]
        assert sorted(os.listdir(tmp_path / "new" / "all")) == ["report.html", "table.csv", "table.md"]
        assert report.write_report(workdirs[0])[-1] == workdirs[0] / "report.html"

    def test_of_nothing_that_can_be_read(self, tmp_path):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/eval holds no evaluation: evaluate first"):
            report.write_reports([tmp_path], tmp_path / "out")
        with pytest.raises(ConfigError, match="no work directory is given"):
            report.write_reports([], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("without_charts")
    def test_what_is_left_out_is_named_without_steering_the_terminal(self, workdirs, tmp_path, capsys):
        (tmp_path / "\x1b[31mforged\nline").mkdir()
        report.write_reports([workdirs[0], tmp_path / "\x1b[31mforged\nline"], tmp_path / "out")
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert r"\x1b[31mforged\nline/eval holds no evaluation" in said


PROBE = """<script>
const result = {};
result.pictures = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
const table = document.querySelector("table.sortable");
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[4].textContent);
result.before = column();
const button = table.tHead.rows[0].cells[4].querySelector("button");
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
@pytest.mark.system
def test_in_a_browser(workdirs, tmp_path):
    """Opened from disk: every picture loads, a click on a head sorts, a pointer magnifies a row, nothing fails."""
    runs, _ = read_runs([workdirs[0], workdirs[2]])
    runs.append(runs[0]._replace(name="third", evaluations=copy.deepcopy(runs[0].evaluations)))
    # As text they would sort the other way round; what is missing comes last in either direction.
    for run, value in zip(runs, (9.5, 10.25, None), strict=True):
        of(run, "photos-test").results["psnr_db"] = value
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
    assert sorted(result["before"]) == ["-", "10.25", "9.50"]
    assert result["ascending"] == ["9.50", "10.25", "-"]
    assert result["state"] == "ascending"
    assert result["descending"] == ["10.25", "9.50", "-"]
    assert set(result["zoomed"]) == {"scale(4)"}
    assert len(result["zoomed"]) == 4
    assert result["origin"].startswith("25% 50%")
