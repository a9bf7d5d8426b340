import json

import pytest

from vpvae_jax.speech.scores import Scored, summarise


def test_by_hand():
    scored = [
        Scored("a", {"stoi": 0.5, "stoi_continuous": 0.9}, {"pesq_wb": "too short"}),
        Scored("b", {"stoi_continuous": 0.7}, {"pesq_wb": "no utterance", "stoi": "silent"}),
        Scored("c", {"stoi": 0.7, "stoi_continuous": 0.8}, {"pesq_wb": "too short"}),
    ]
    results = summarise(scored)
    assert results.pop("stoi") == pytest.approx(0.6)
    assert results.pop("stoi_continuous") == pytest.approx(0.8)
    assert results == {
        "pesq_wb": None,
        "num_scored_pesq_wb": 0,
        "num_scored_stoi": 2,
        "num_scored_stoi_continuous": 3,
        "unscored": [
            {"name": "a", "metric": "pesq_wb", "reason": "too short"},
            {"name": "b", "metric": "pesq_wb", "reason": "no utterance"},
            {"name": "b", "metric": "stoi", "reason": "silent"},
            {"name": "c", "metric": "pesq_wb", "reason": "too short"},
        ],
    }
    json.dumps(results, allow_nan=False)


def test_nothing_was_scored():
    assert summarise([]) == {"unscored": []}
