"""FUSE: the bindings to the kernel, and the table from hffs errors to errnos."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..vfs import Filesystem
from .connection import Connection, Resumption
from .errnos import errno_of

if TYPE_CHECKING:
    from .kernel.probe import KernelFeatures


class Binding(Protocol):
    """Serves one mount. ``serve`` blocks the main thread until the unmount or ``leave`` is called. ``connection``
    is what another process needs to take over; None before INIT and for bindings that cannot be taken over."""

    name: str

    @property
    def connection(self) -> Connection | None: ...

    def served(self, node: int) -> tuple[bool, str]: ...

    def open_nodes(self) -> dict[int, int]: ...

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None: ...

    def leave(self) -> None: ...


def make_binding(
    kind: str,
    filesystem: Filesystem,
    mountpoint: str,
    *,
    device: str,
    allow_other: bool = False,
    journal: str | None = None,
    resumption: Resumption | None = None,
) -> Binding:
    """Returns the binding named ``kind``: ``kernel``, ``libfuse``, or ``auto`` (the kernel binding on Linux, libfuse
    elsewhere). ``journal`` is the path of the handle journal, ``resumption`` the connection of an earlier worker; both
    are used by the kernel binding only. Raises MountFailed."""
    if kind == "kernel" or (kind == "auto" and sys.platform == "linux"):
        from .kernel import KernelBinding

        return KernelBinding(
            filesystem, mountpoint, device=device, allow_other=allow_other, journal=journal, resumption=resumption
        )
    from .libfuse import LibfuseBinding

    return LibfuseBinding(filesystem, mountpoint, device=device, allow_other=allow_other)


def probe(mountpoint: str, backing: int) -> KernelFeatures:
    """Returns the kernel's features, found by a test mount that is left dead (``kernel.probe``). Raises MountFailed."""
    from .kernel import probe

    return probe.probe(mountpoint, backing)


__all__ = ["Binding", "Connection", "Resumption", "errno_of", "make_binding", "probe"]
