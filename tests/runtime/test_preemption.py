import os
import signal

import pytest

from vpvae_jax.data.sources import Record
from vpvae_jax.images.decoding import ImageDecoder
from vpvae_jax.runtime.preemption import Preemption, Stopped, stop_on_sigterm


@pytest.fixture(autouse=True)
def handler():
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


def _ask():
    os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_stop_a_loop_goes_on_to_the_end_of_its_step():
    with pytest.raises(Stopped), Preemption() as preemption:  # noqa: PT012
        assert not preemption.reached(1)
        _ask()
        assert preemption.reached(2)
        raise Stopped("")


def test_asked_after_the_last_step_it_stops_all_the_same():
    with pytest.raises(Stopped, match="the last step is saved"), Preemption() as preemption:  # noqa: PT012
        assert not preemption.reached(1)
        _ask()


def test_the_handler_before_comes_back():
    stop_on_sigterm()
    with Preemption():
        pass
    with pytest.raises(Stopped, match="finished checkpoints are kept"):
        _ask()


def test_a_record_that_is_being_decoded_is_not_what_is_left_out():
    class Asked(ImageDecoder):
        def decode(self, encoded, record_source):
            _ask()
            return super().decode(encoded, record_source)

    stop_on_sigterm()
    decoder = Asked()
    with pytest.raises(Stopped):
        decoder(0, [Record("x", b"")])
    assert not decoder.unreadable
