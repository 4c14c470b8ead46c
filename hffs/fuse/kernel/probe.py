"""A test mount that ends after INIT, to learn the kernel's features. Used by ``hffs doctor``.

No request is served: the descriptor is closed after the handshake, and the caller unmounts the dead mount.
"""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import Final

from ...errors import MountFailed
from . import abi
from .device import BUFFER_SIZE, MAX_WRITE, NO_PASSTHROUGH, Device, passthrough_refusal
from .mount_syscall import mount

# The kernel sends INIT during mount(2); a busy machine may schedule this process late.
_INIT_SECONDS: Final = 10.0
_FLAGS: Final = abi.Init.MAX_PAGES | abi.Init.INIT_EXT | abi.Init.PASSTHROUGH


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """The kernel's protocol version, and whether passthrough works on the cache's file system; ``refused`` says why
    not."""

    major: int
    minor: int
    passthrough: bool
    refused: str = ""


def probe(mountpoint: str, backing: int) -> KernelFeatures:
    """Mounts at an empty directory, answers INIT, tries passthrough with the descriptor ``backing``, and closes.

    The mount is left dead, for the caller to unmount. Raises MountFailed.
    """
    device = Device(mount(mountpoint, device_name="hffs-doctor", allow_other=False))
    try:
        if not select.select([device.fd], [], [], _INIT_SECONDS)[0]:
            raise MountFailed(f"the kernel sent nothing within {_INIT_SECONDS:.0f} s of a mount", "see dmesg")
        buffer = bytearray(BUFFER_SIZE)
        try:
            request = abi.parse_init(memoryview(buffer)[: device.receive(buffer) or 0])
        except ValueError as error:
            raise MountFailed(f"the kernel's first request is not INIT: {error}") from error
        flags = _FLAGS & request.offered
        major, minor = request.major, request.minor
        if not flags & abi.Init.PASSTHROUGH:
            return KernelFeatures(major, minor, False, NO_PASSTHROUGH)
        reply = request.reply(flags, background=1, congestion=1, write=MAX_WRITE, pages=256, stack=1)
        device.reply(request.unique, reply)
        try:
            device.close_backing(device.open_backing(backing))
        except OSError as error:
            return KernelFeatures(major, minor, False, passthrough_refusal(error))
        return KernelFeatures(major, minor, True)
    finally:
        device.close()
