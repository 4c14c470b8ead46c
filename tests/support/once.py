"""What is expensive to make and only read: one of it for all processes of a run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns the folder that ``make`` has filled, in this process or in another one of the run."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / name
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with its holder; a maker that hangs is ended by its test's timeout
        if not folder.exists():
            part = shared / f"{name}.{os.getpid()}"
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder
