"""README and the pages: links lead to files, commands and keys exist, tables are fresh, Python runs as it stands."""

import json
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from docs import hooks, tables
from tests import tiny
from vpvae_jax import main
from vpvae_jax.config import files, quantizer_section
from vpvae_jax.quantizers import QUANTIZERS, Quantizer

README = (tiny.ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(tiny.ROOT)): path.read_text()
    for path in (*tables.documents(), tiny.ROOT / "CONTRIBUTING.md", tiny.ROOT / "CHANGELOG.md")
}
NOTEBOOKS = sorted((tiny.ROOT / "docs" / "notebooks").glob("*.ipynb"))
LINKS = [
    (page, target) for page, text in PAGES.items() for target in re.findall(r"\]\((?!http)([^)#\s]+)[^)]*\)", text)
]
KEY = re.compile(
    r"(?:--config\.|`)((?:data|model|quantizer|codebook|loss|train|checkpoint|eval|log|debug)\.[a-z_0-9.]+)"
)
FILE_NAMES = ("data.json",)  # what looks like a key and is a file of a work directory
SNIPPETS = [
    (page, number, code)
    for page, text in PAGES.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
]
# Which need a trained tokenizer, and which compile for long.
OF_A_TOKENIZER = "Tokenizer.load"
QUICK = ("docs/methods.md", "docs/architecture.md")


def _commands() -> list[tuple[str, str]]:
    """Every command line of ours that stands in a code block, without those of shell variables."""
    found = []
    for page, text in PAGES.items():
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        blocks += re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            command = re.search(r"(?:python -m vpvae_jax\.main|vpvae-jax) .*", line.partition("  #")[0])
            if command and "$" not in command[0] and "DIR [" not in command[0]:
                found.append((page, " ".join(command[0].split())))
    return found


def _keys() -> set[str]:
    configs = [
        files.load_config(name, f"quantizer={quantizer}") for name in ("photos", "speech") for quantizer in QUANTIZERS
    ]
    return set().union(*(config.flatten() for config in configs))


def test_the_readme_is_a_door():
    assert len(README.splitlines()) <= 150
    assert len(README) <= 8000


def test_tables_are_those_of_results():
    stale = [str(path) for path in tables.documents() if tables.filled(path.read_text()) != path.read_text()]
    assert not stale, f"stale: {stale}: run `make tables`"


def test_every_table_has_a_place():
    places = "".join(PAGES.values())
    assert [name for name in tables.TABLES if f"<!-- table: {name} -->" not in places] == []


def test_a_table_of_another_name_is_refused():
    with pytest.raises(KeyError, match="no-such"):
        tables.filled("<!-- table: no-such -->\n<!-- /table -->")


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_to_files(page, target):
    assert ((tiny.ROOT / page).parent / target).exists()


def test_keys_named_in_the_pages_exist():
    known = _keys()
    sections = {key.rpartition(".")[0] for key in known}
    named = {
        (page, key.rstrip("."))
        for page, text in PAGES.items()
        for key in KEY.findall(text)
        if page != "CHANGELOG.md"  # which names those that are gone
    }
    assert named
    assert [(page, key) for page, key in named if key not in known | sections and key not in FILE_NAMES] == []


@pytest.mark.parametrize(("page", "command"), _commands())
def test_commands_are_understood(page, command, monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    given = main.parse(shlex.split(command)[2 if command.startswith("python") else 0 :])
    assert given.mode in main.MODES


ARGUMENTS = set(re.findall(r"quantizer=[a-z]\w*(?:,[\w.]+=[\w.]+)*\b(?![=,$])", "".join(PAGES.values())))


@pytest.mark.parametrize("argument", sorted(ARGUMENTS))
def test_arguments_of_configs_are_understood(argument, new_quantizer):
    assert files.load_config("photos", argument).quantizer.name in QUANTIZERS


def test_the_page_of_keys_has_every_key():
    page = (tiny.ROOT / "docs" / "config.md").read_text()
    assert [key for key in _keys() if f"| `{key}` |" not in page] == []
    assert re.findall(r"^\| `.*\|  \|$", page, flags=re.MULTILINE) == [], "a key without a description"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
    assert hooks.notebook_page(path).startswith("# ")


def _snippets(is_chosen):
    chosen = [snippet for snippet in SNIPPETS if is_chosen(*snippet)]
    return pytest.mark.parametrize("code", [code for *_, code in chosen], ids=[f"{p}-{n}" for p, n, _ in chosen])


@_snippets(lambda page, number, code: page in QUICK)
def test_short_python_runs(code):
    scope = {"__name__": "snippet"}
    exec(code, scope)
    for name, quantizer in scope.items():
        if isinstance(quantizer, Quantizer):
            assert quantizer.latent_dim in (4, 5), name


@pytest.fixture
def new_quantizer(monkeypatch):
    """The example of docs/architecture.md, registered as it says."""
    (code,) = (code for page, _, code in SNIPPETS if page == "docs/architecture.md" and "def noise" in code)
    scope = {}
    exec(code, scope)
    monkeypatch.setitem(QUANTIZERS, "noise", scope["noise"])


def test_the_example_of_a_new_quantizer_is_trained_by_name(new_quantizer):
    section = files.load_config("photos", "quantizer=noise,scale=0.2").quantizer
    quantizer = quantizer_section.build(section)
    assert (section.scale, quantizer.codebook_size, quantizer.latent_dim) == (0.2, 256, 3)
    params, state = quantizer.init(jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (4096, 3))
    z_tilde, *_ = quantizer.train(params, state, z, jax.random.key(2))
    np.testing.assert_allclose(jnp.std(z_tilde - z), 0.2, rtol=0.05)


@pytest.mark.system
@_snippets(lambda page, number, code: page not in QUICK and OF_A_TOKENIZER not in code)
def test_python_runs(code):
    scope = {"__name__": "snippet"}
    exec(code, scope)
    if "losses" in scope:
        assert scope["losses"][-1] < 0.8 * scope["losses"][0]
        assert scope["reconstruction"].shape == scope["data"].shape
    assert scope["indices"].dtype == np.int32
    assert 0 <= int(scope["indices"].min()) <= int(scope["indices"].max()) < len(scope["codebook"])


@_snippets(lambda page, number, code: OF_A_TOKENIZER in code)
def test_the_tokenizer_of_the_pages_runs(code, trained, tmp_path):
    photo = tmp_path / "photo.jpg"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(photo)
    scope = {}
    exec(code.replace("runs/demo", str(trained)).replace("photo.jpg", str(photo)), scope)
    assert scope["decoded"].shape == (1, 384, 512, 3)
