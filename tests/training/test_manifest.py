import json

import pytest

from vpvae_jax.training import manifest


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_bytes(bytes(range(256)) * 3)
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "_CHECKPOINT_METADATA").write_text('{"metrics": {"loss": 1.0}, "commit_timestamp_nsecs": null}')
    manifest.write_manifest(tmp_path)
    return tmp_path


def test_what_was_not_touched_is_intact(directory):
    assert manifest.damage(directory) == ""


def test_what_orbax_writes_last_is_no_damage(directory):
    (directory / "commit_success.txt").write_text("done")
    (directory / "_CHECKPOINT_METADATA").write_text('{"metrics": {"loss": 1.0}, "commit_timestamp_nsecs": 17}')
    assert manifest.damage(directory) == ""


@pytest.mark.system
def test_every_bit_of_a_file_counts(directory):
    path = directory / "state" / "a"
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert manifest.damage(directory) == "state/a has changed"
    path.write_bytes(content)
    assert manifest.damage(directory) == ""


def test_a_flipped_bit_of_the_manifest_is_found_or_changes_nothing(directory):
    path = directory / manifest.NAME
    content = path.read_bytes()
    meaning, num_found = json.loads(content), 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if manifest.damage(directory):
            num_found += 1
        else:
            assert json.loads(bytes(flipped)) == meaning  # white space
    assert num_found > 7 * len(content)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda d: (d / "state" / "a").unlink(), "state/a is missing"),
        (lambda d: (d / "c").write_text(""), "c was added"),
        (lambda d: (d / "b").write_text("x"), "b has changed"),
        (lambda d: (d / "state" / "a").write_bytes(bytes(768)), "state/a has changed"),
        (lambda d: (d / "_CHECKPOINT_METADATA").write_text('{"metrics": {}}'), "_CHECKPOINT_METADATA has changed"),
        (lambda d: (d / "_CHECKPOINT_METADATA").write_text("{"), "_CHECKPOINT_METADATA has changed"),
        (lambda d: (d / manifest.NAME).unlink(), "it has no manifest.json"),
        (lambda d: (d / manifest.NAME).write_text("[]"), "its manifest.json has changed"),
        (lambda d: (d / manifest.NAME).write_text("[" * 100_000), "its manifest.json has changed"),
        (lambda d: (d / manifest.NAME).write_bytes(b"\xff\x00"), "its manifest.json has changed"),
        (lambda d: (d / manifest.NAME).write_text('{"files": {}, "sha256": ""}'), "its manifest.json has changed"),
    ],
)
def test_damage_is_named(directory, harm, expected):
    harm(directory)
    assert manifest.damage(directory) == expected
