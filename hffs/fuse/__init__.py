"""The kernel's door: bindings, and the table from our errors to errnos."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from ..vfs import Filesystem
from .errnos import errno_of


class Binding(Protocol):
    """What a mount is served by. ``serve`` blocks the main thread until the mount is gone."""

    name: str

    def served(self, node: int) -> tuple[bool, str]: ...

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None: ...


def make_binding(
    kind: str, filesystem: Filesystem, mountpoint: str, *, device: str, allow_other: bool = False
) -> Binding:
    """The binding called ``kind``: ``kernel``, ``libfuse``, or ``auto``, which is the kernel's own protocol on Linux
    and libfuse elsewhere. Raises MountFailed."""
    if kind == "kernel" or (kind == "auto" and sys.platform == "linux"):
        from .kernel import KernelBinding

        return KernelBinding(filesystem, mountpoint, device=device, allow_other=allow_other)
    from .libfuse import LibfuseBinding

    return LibfuseBinding(filesystem, mountpoint, device=device, allow_other=allow_other)


__all__ = ["Binding", "errno_of", "make_binding"]
