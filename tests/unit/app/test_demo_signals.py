"""How the demo ends: the first signal ends it, further ones do not keep it from putting its processes away."""

from __future__ import annotations

import os
import signal

import pytest

from underway.app.demo import _signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminate", "terminal-closed"])
def test_demo_signal_interrupts_once_and_the_clean_up_is_left_alone(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with _signals() as finish_undisturbed:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        finish_undisturbed()
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_demo_under_nohup_stays_when_the_terminal_closes() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
