"""A hydration on a thread of its own, as a job runs it, for tests of the hydration alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hffs.engine.hydrate import HydrationWork
from hffs.engine.jobs import RunningJob
from hffs.errors import HffsError
from hffs.transfer import Fetcher, Hydration


class HydrationThread(RunningJob):
    """``progress`` is that of the hydration, with the job's ``state`` and the ``error`` that ended it."""

    def __init__(
        self, fetcher: Fetcher, plan: Any, *, ended: Callable[[], None] = lambda: None, **options: Any
    ) -> None:
        self.hydration = Hydration(fetcher, plan, **options)
        super().__init__(HydrationWork(self.hydration, fetcher, lambda file: file.path), "", ended=ended)

    @property
    def error(self) -> HffsError | None:
        return self._error

    def progress(self) -> Any:
        state = self.state
        now = self.hydration.progress()
        values = {field.name: getattr(now, field.name) for field in dataclasses.fields(now)}
        return SimpleNamespace(**values, state=state, error=self.error)
