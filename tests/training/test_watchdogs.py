import logging
import time

import pytest

from vpvae_jax.training.watchdogs import StallWatch, Watchdogs, memory_in_use


def _look(watchdogs, periods):
    return [watchdogs.look(step, {"loss": 1.0, **values}) for step, values in enumerate(periods, start=1)]


def test_a_run_that_goes_well_is_left_alone():
    figures = {"acceptance_rate": 0.4, "batch_usage": 0.5, "input_share": 0.1}
    periods = [figures | {"loss": 1.0 / step} for step in range(1, 60)]
    assert not any(_look(Watchdogs(256, 1024), periods))


def test_a_spike_is_told_once_and_again_when_it_comes_back(caplog):
    losses = [1.0] * 6 + [3.5, 3.6, 1.0, 1.0, 4.0]
    with caplog.at_level(logging.WARNING):
        warnings = _look(Watchdogs(256, 1024), [{"loss": loss} for loss in losses])
    assert [step for step, found in enumerate(warnings, start=1) if found] == [7, 11]
    assert warnings[6] == [
        "step 7: the loss is 3.5, 3.5 times what it was: if it does not recover, lower train.learning_rate or set "
        "train.clip_norm"
    ]
    assert len(caplog.records) == 2


def test_the_first_periods_have_nothing_to_compare_with():
    assert not any(_look(Watchdogs(256, 1024), [{"loss": loss} for loss in (1.0, 9.0, 1.0, 9.0)]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"acceptance_rate": 0.049}, "only 4.9% of the perturbations are accepted"),
        ({"batch_usage": 2 / 256}, "a batch uses 2.0 of 256 codes in effect"),
        ({"eval_cvu": 0.01}, "the examples that are watched use 1.0% of the codes in effect (CVU)"),
    ],
)
def test_collapse_is_told(values, words):
    (warnings,) = _look(Watchdogs(256, 1024), [values])
    assert words in warnings[0]
    (warnings,) = _look(Watchdogs(256, 1024), [{name: 10 * value for name, value in values.items()}])
    assert not warnings


def test_few_tokens_cannot_use_many_codes():
    assert not any(_look(Watchdogs(16384, 256), [{"batch_usage": 200 / 16384}]))
    assert any(_look(Watchdogs(16384, 256), [{"batch_usage": 2 / 16384}]))


def test_waiting_for_data_is_told_after_the_first_period():
    warnings = _look(Watchdogs(256, 1024), [{"input_share": 0.9}] * 3)
    assert [len(found) for found in warnings] == [0, 1, 0]
    assert "90% of the time is spent waiting for data: raise data.num_threads" in warnings[1][0]


def test_an_input_that_stands_still_is_told_as_long_as_it_does(caplog):
    with caplog.at_level(logging.WARNING), StallWatch(seconds=0.2) as watch:
        watch.begin()
        time.sleep(0.7)
        assert watch.end() >= 0.7
        num_told = len(caplog.records)
        time.sleep(0.5)  # nothing is asked for
    assert num_told >= 2
    assert len(caplog.records) == num_told
    assert "the input is stalled" in caplog.text


def test_memory_in_use_is_that_of_this_process():
    before = memory_in_use()["host_memory_gib"]
    block = bytearray(2**28)
    block[::4096] = b"x" * (2**28 // 4096)
    assert memory_in_use()["host_memory_gib"] - before == pytest.approx(0.25, abs=0.1)
