from vpvae_jax.evaluation.records import read_results
from vpvae_jax.runtime.files import write_json


def test_small_codebooks_come_first(tmp_path):
    (tmp_path / "eval").mkdir()
    names = ["photos-test.k16-step6.2x64px.1a2b", "photos-test.k128-step6.2x64px.1a2b", "photos-val.k8-step6.2x.3c"]
    for name in reversed(names):
        write_json(tmp_path / "eval" / f"{name}.json", {})
    assert list(read_results(tmp_path)) == names
