import os
import signal
import sys

import pytest

from vpvae_jax.data.sources import Record
from vpvae_jax.images.decoding import ImageDecoder
from vpvae_jax.runtime import preemption
from vpvae_jax.runtime.preemption import Preemption, Stopped, stop_when_asked


@pytest.fixture(autouse=True)
def handler(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    preemption._asked.clear()
    for number, handler in previous.items():
        signal.signal(number, handler)


def _ask():
    os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_stop_a_loop_goes_on_to_the_end_of_its_step():
    with pytest.raises(Stopped), Preemption() as watch:  # noqa: PT012
        assert not watch.reached(1)
        _ask()
        assert watch.reached(2)
        raise Stopped("")


def test_asked_after_the_last_step_it_stops_all_the_same():
    with pytest.raises(Stopped, match="the last step is saved"), Preemption() as watch:  # noqa: PT012
        assert not watch.reached(1)
        _ask()


def test_the_handler_before_comes_back():
    stop_when_asked()
    with Preemption():
        pass
    with pytest.raises(Stopped):
        _ask()


def test_ctrl_c_stops_after_the_step_and_a_second_one_at_once(capsys):
    with pytest.raises(Stopped) as caught, Preemption() as watch:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.reached(1)
        raise watch.stopped("saved step 1")
    assert caught.value.code == 130
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), Preemption():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_record_that_is_being_decoded_is_not_what_is_left_out():
    class Asked(ImageDecoder):
        def decode(self, encoded, record_source):
            _ask()
            return super().decode(encoded, record_source)

    stop_when_asked()
    decoder = Asked()
    with pytest.raises(Stopped):
        decoder(0, [Record("x", b"")])
    assert not decoder.unreadable


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("begin", [stop_when_asked, lambda: Preemption().__enter__()])
def test_what_was_asked_and_got_lost_is_heard_at_the_next_stage(capsys, number, expected, begin):
    """Without the traceback that Python prints of an exception that gets lost."""

    class Asks:
        def __del__(self):  # no exception leaves it
            os.kill(os.getpid(), number)

    stop_when_asked()
    Asks()
    assert not capsys.readouterr().err
    with pytest.raises(expected):
        begin()
    stop_when_asked()


def test_other_exceptions_that_get_lost_are_reported(capsys):
    class Fails:
        def __del__(self):
            raise ValueError("something else")

    stop_when_asked()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    Fails()
    assert "something else" in capsys.readouterr().err
