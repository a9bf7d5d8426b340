"""The README's Python runs as it stands, its links lead somewhere, its settings exist."""

import re

import numpy as np
import PIL.Image
import pytest

from tests import tiny
from vpvae_jax import build, config_arguments
from vpvae_jax.comparison import records, report
from vpvae_jax.modalities import AUDIO, IMAGES

README = (tiny.ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_the_sampler_snippet_runs_and_says_what_it_promises(capsys):
    scope = {}
    exec(SNIPPETS[0], scope)
    assert 0.55 < float(capsys.readouterr().out) < 0.70
    assert scope["indices"].shape == (4096,)
    assert scope["codebook"].shape == (1024, 4)


def test_the_tokenizer_snippet_runs(trained, tmp_path):
    photo = tmp_path / "photo.jpg"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(photo)
    code = SNIPPETS[1].replace("runs/demo/tokenizer", str(trained / "tokenizer")).replace("photo.jpg", str(photo))
    scope = {}
    exec(code, scope)
    assert scope["decoded"].shape == (1, 384, 512, 3)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_to_files(target):
    assert (tiny.ROOT / target).exists()


def test_settings_named_in_the_readme_exist():
    keys = set(re.findall(r"--config\.([a-z_.]+)=", README)) - {"x.y"}
    assert keys
    configs = [config_arguments.load_config(tiny.ROOT / "configs" / f"{name}.py") for name in ("photos", "speech")]
    assert keys <= set().union(*map(build.flatten, configs))


@pytest.mark.parametrize(("name", "modality"), [("photos", IMAGES), ("speech", AUDIO)])
def test_the_tables_are_those_of_the_recorded_runs(name, modality):
    results = tiny.ROOT / "results" / name / "comparison"
    comparison = config_arguments.load_config(tiny.ROOT / "configs" / "comparisons" / f"{name}.py")
    runs = records.read(results, "runs")
    tables = [
        report.markdown_table(runs, list(dict(group)), modality.figures)
        for group in (comparison.methods, comparison.ablations)
    ]
    assert "\n".join(tables) == (results / "table.md").read_text()
    assert all(table in README for table in tables)
