"""The kernel's read-ahead on a mount: how much it asks for beyond a page fault or a read.

FUSE devices come up with 128 KiB and INIT can only lower that; root may raise it in sysfs once the mount is there, and
mmap of a local file is several times faster for it. Who is not root is shown the command by ``hffs status``. Nothing
here touches the mountpoint: the device's number comes from mountinfo.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Final

from . import mount_table

log = logging.getLogger(__name__)

# One request of the size the kernel makes of us (1 MiB). Larger windows gained nothing for sequential reads and cost
# random mmap reads: docs/benchmarks.md, "read-ahead of the mount".
READ_AHEAD_KB: Final = 1024


@dataclass(frozen=True, slots=True)
class DeviceReadahead:
    """What the device has, in KiB (None: not known), and the command that raises it, empty where there is no need."""

    kb: int | None
    command: str = ""


def raise_to(mountpoint: str, kb: int = READ_AHEAD_KB, sysfs: str = "/sys/class/bdi") -> DeviceReadahead:
    """Raises the mount's read-ahead to ``kb`` KiB where that is permitted; never lowers it. Never raises an error."""
    found = mount_table.table().get(mountpoint)
    if found is None or not found.device:
        return DeviceReadahead(None)
    path = os.path.join(sysfs, found.device, "read_ahead_kb")
    try:
        with open(path, encoding="ascii") as file:
            now = int(file.read())
        if now >= kb:
            return DeviceReadahead(now)
    except (OSError, ValueError) as error:  # containers hide sysfs
        log.debug("event=read-ahead-unknown error=%s", error)
        return DeviceReadahead(None)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{kb}\n")
    except OSError as error:
        log.debug("event=read-ahead-not-raised error=%s", error)
        return DeviceReadahead(now, f"echo {kb} | sudo tee {path}")
    return DeviceReadahead(kb)
