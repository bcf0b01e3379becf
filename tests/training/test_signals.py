"""Stop requests by real signals sent to this very process."""

import os
import signal
import threading

import pytest

from homotopy_cli.training.signals import StopRequest


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_a_signal_becomes_a_request_and_its_exit_code(number, code, name):
    former = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.exit_code == 0 and stop.name == ""
        os.kill(os.getpid(), number)
        assert (stop.signum, stop.exit_code, stop.name) == (number, code, name)
    assert signal.getsignal(number) is former


def test_a_second_interrupt_does_not_wait():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_train_without_handlers():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(stop.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
