"""Nothing that the process inherits from whatever started it changes what a test sees."""

from __future__ import annotations

import os
import signal

# Python ignores these itself, and subprocess restores them for what it starts.
_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def inherit_nothing() -> None:
    """Resets signal dispositions, the signal mask and the umask to what a login shell gives.

    ``nohup``, ``command &`` in a script and many CI runners start processes with SIGHUP, SIGINT or SIGQUIT ignored;
    everything that the tests start inherits this, and a program that ends on Ctrl-C then never ends.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if number not in _OF_PYTHON and signal.getsignal(number) is signal.SIG_IGN:
            # A run under nohup goes on when its terminal closes: a handler, unlike SIG_IGN, is not inherited.
            signal.signal(number, _ignore if number == signal.SIGHUP else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)


def _ignore(number: int, frame: object) -> None:
    pass
