"""The kernel's door: bindings, and the table from our errors to errnos."""

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
    """What a mount is served by. ``serve`` blocks the main thread until the mount is gone, or until ``leave`` was
    called. ``connection`` is what another process needs to go on, None before INIT and where there is no such."""

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
    """The binding called ``kind``: ``kernel``, ``libfuse``, or ``auto``, which is the kernel's own protocol on Linux
    and libfuse elsewhere. ``journal`` is the path of the handle journal and ``resumption`` what a worker before us
    left; the kernel binding's only. Raises MountFailed."""
    if kind == "kernel" or (kind == "auto" and sys.platform == "linux"):
        from .kernel import KernelBinding

        return KernelBinding(
            filesystem, mountpoint, device=device, allow_other=allow_other, journal=journal, resumption=resumption
        )
    from .libfuse import LibfuseBinding

    return LibfuseBinding(filesystem, mountpoint, device=device, allow_other=allow_other)


def probe(mountpoint: str, backing: int) -> KernelFeatures:
    """As ``kernel.trial.trial``: what this kernel offers, by a mount that is left dead. Raises MountFailed."""
    from .kernel import probe

    return probe.probe(mountpoint, backing)


__all__ = ["Binding", "Connection", "Resumption", "errno_of", "make_binding", "trial"]
