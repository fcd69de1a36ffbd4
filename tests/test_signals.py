import os
import signal
import threading

import pytest

from flowwarp.signals import HANG_UP, INTERRUPT, TERMINATE, handled

pytestmark = pytest.mark.posix


@pytest.fixture
def received():
    """Return a list of the signals that the handler gets, and the handler."""
    numbers = []
    return numbers, lambda number, frame: numbers.append(number)


def test_signals_go_to_the_handler_inside_the_block(received):
    numbers, handler = received
    before = signal.getsignal(TERMINATE), signal.getsignal(INTERRUPT)
    with handled(handler, INTERRUPT, TERMINATE, None):
        os.kill(os.getpid(), TERMINATE)
        os.kill(os.getpid(), INTERRUPT)
    assert numbers == [TERMINATE, INTERRUPT]
    assert (signal.getsignal(TERMINATE), signal.getsignal(INTERRUPT)) == before


def test_an_ignored_signal_stays_ignored(received):
    numbers, handler = received
    before = signal.signal(HANG_UP, signal.SIG_IGN)
    try:
        with handled(handler, HANG_UP):
            os.kill(os.getpid(), HANG_UP)
        assert signal.getsignal(HANG_UP) is signal.SIG_IGN
    finally:
        signal.signal(HANG_UP, before)
    assert numbers == []


def test_other_threads_change_nothing(received):
    _, handler = received
    found = []

    def enter():
        with handled(handler, TERMINATE):
            found.append(signal.getsignal(TERMINATE))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(TERMINATE)]
