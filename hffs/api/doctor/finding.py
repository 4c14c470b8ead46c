"""A finding of the doctor: one line, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """``fail``: hffs does not work here until it is fixed; ``warn``: it works, but not as well as it could. ``remedy``
    is empty where there is nothing to do."""

    area: str
    state: State
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Area:
    """Makes the findings of one area."""

    name: str

    def ok(self, what: str) -> DoctorFinding:
        return DoctorFinding(self.name, "ok", what)

    def warn(self, what: str, remedy: str) -> DoctorFinding:
        return DoctorFinding(self.name, "warn", what, remedy)

    def fail(self, what: str, remedy: str) -> DoctorFinding:
        return DoctorFinding(self.name, "fail", what, remedy)
