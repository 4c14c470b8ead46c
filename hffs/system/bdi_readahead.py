"""The kernel's read-ahead of a mount: the bytes it requests beyond a page fault or a read.

FUSE devices start with 128 KiB and INIT can only lower that; root may raise it in sysfs while mounted, which makes mmap
of a local file several times faster. For other users ``hffs status`` shows the command. The mountpoint is not accessed:
the device number comes from mountinfo.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Final

from . import mount_table

log = logging.getLogger(__name__)

# The size of one FUSE request (1 MiB). Larger windows gained nothing for sequential reads and cost
# random mmap reads: docs/benchmarks.md, "read-ahead of the mount".
READ_AHEAD_KB: Final = 1024


@dataclass(frozen=True, slots=True)
class DeviceReadahead:
    """The device's read-ahead in KiB (None: unknown), and the command that raises it, empty if not needed."""

    kb: int | None
    command: str = ""


def raise_to(mountpoint: str, kb: int = READ_AHEAD_KB, sysfs: str = "/sys/class/bdi") -> DeviceReadahead:
    """Raises the mount's read-ahead to ``kb`` KiB where permitted; never lowers it, raises no exception."""
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
