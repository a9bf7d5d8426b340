"""The built wheel: what it carries and what it leaves out."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.system

LEFT_OUT = (".git", ".venv", "runs", "results", "build", "dist", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Names in a wheel built from a copy of the repository."""
    source = tmp_path_factory.mktemp("source") / "repository"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    wheels = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(command, check=True, timeout=300)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def _files(folder, pattern="*"):
    paths = (ROOT / folder).rglob(pattern)
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_configs_travel(names):
    expected = {f"vpvae_jax/{config}" for config in _files("configs", "*.py")}
    assert expected == {name for name in names if name.startswith("vpvae_jax/configs/")}
    assert expected  # none found would prove nothing


def test_every_file_of_the_package_travels(names):
    assert _files("vpvae_jax") <= names


def test_only_the_package_travels(names):
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vpvae_jax"}


def test_licences_travel(names):
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "vpvae_jax/speech/speech_flac/LICENSE"}
