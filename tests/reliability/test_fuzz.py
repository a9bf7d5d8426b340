"""Some hundred damaged files for each loader; `python -m tests.reliability.fuzz` feeds ten thousand."""

import logging

import pytest

from tests.reliability import fuzz

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.system
@pytest.mark.parametrize("target", ["images", "audio", "weights"])
def test_damaged_files_are_read_or_refused(target):
    result = fuzz.fuzz(target, 400)
    assert not result["crash"], result["crash"]
    assert result["inputs"] == result["read"] + result["refused"] >= 400
    assert result["refused"] > 100


@pytest.mark.reliability
@pytest.mark.parametrize(
    "target",
    [target for target in fuzz.TARGETS if target not in ("images", "audio", "weights")],
)
def test_damaged_files_of_a_run_are_read_or_refused(target):
    result = fuzz.fuzz(target, 1000)
    assert not result["crash"], result["crash"]
    assert result["refused"] > 500


def test_a_crash_is_seen(monkeypatch):
    """And the input that is shown is as small as it can be."""

    def target(directory):
        return [b"good"], lambda content: "read" if b"oo" in content else 1 // 0

    monkeypatch.setitem(fuzz.TARGETS, "wrong", target)
    result = fuzz.fuzz("wrong", 50)
    assert "ZeroDivisionError" in result["crash"]
    assert "content=b''" in result["crash"]
