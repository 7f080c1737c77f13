"""Several loggers are closed as one: a slow one holds nobody up, and a failing one is not silent."""

import threading
import time

import pytest

from tbptt.report.logger import Loggers


class Closing:
    def __init__(self, close):
        self.close = close


def test_a_logger_that_waits_for_a_network_is_waited_for_no_longer_than_asked(caplog):
    network, closed = threading.Event(), []
    loggers = Loggers([Closing(network.wait), Closing(lambda: closed.append(True))])
    started = time.monotonic()
    loggers.close(0.2)
    assert time.monotonic() - started < 30 and closed == [True]
    assert "Closing is not closed after 0.2 seconds" in caplog.text
    network.set()


@pytest.mark.parametrize("seconds", [None, 5.0])
def test_an_error_of_a_logger_is_raised(seconds):
    def fail():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        Loggers([Closing(fail)]).close(seconds)
