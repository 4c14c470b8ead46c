"""Nothing that the process inherits from whatever started it changes what a test sees."""

from __future__ import annotations

import os
import signal

# Python ignores these itself, and subprocess restores them for what it starts.
_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def inherit_nothing() -> None:
    """Resets signal dispositions, the signal mask, the umask and the terminal's size to what a login shell gives.

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
    # readline exports the terminal's size to pytest-xdist's processes, and programs believe it before their terminal.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def _ignore(number: int, frame: object) -> None:
    pass
