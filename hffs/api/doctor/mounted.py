"""The state of existing mounts: dead, degraded, with a small read-ahead."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from ...config import Settings
from ...system import mount_table
from .. import mounts
from .finding import Area, DoctorFinding

_AREA: Final = Area("mounts")


def check(settings: Settings) -> Iterator[DoctorFinding]:
    found = mounts.status(settings.runtime_dir)
    if not found:
        yield _AREA.ok("you have none")
    for each in found:
        where, last = each["mountpoint"], each["last_errors"][-1:]
        why = f": {last[0]['what']}" if last else ""
        if each["state"] == "dead":
            yield _AREA.fail(f"{where} is dead", f"hffs unmount {where}")
        elif each["state"] != "serving":
            yield _AREA.warn(f"{where} is {each['state']}{why}", f"see hffs status {where}")
        else:
            yield _AREA.ok(f"{where} serves {each['repo']}")
        if each["read_ahead"]["command"]:
            what = f"the kernel's read-ahead on {where} is {each['read_ahead']['kb']} KiB; mmap is faster with more"
            yield _AREA.warn(what, each["read_ahead"]["command"])
    known = {each["mountpoint"] for each in found}
    for other in mount_table.mounts():
        if other.mountpoint in known:
            continue
        number = mount_table.probe(other.mountpoint)
        if number == errno.ENOTCONN:
            what, remedy = f"{other.mountpoint} is a dead mount without a record", f"hffs unmount {other.mountpoint}"
            yield _AREA.fail(what, remedy)
        elif number not in (0, errno.EACCES):
            what = f"{other.mountpoint}, of another user, does not answer ({os.strerror(number)})"
            yield _AREA.warn(what, "ask that user to unmount it")
