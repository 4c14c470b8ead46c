"""The kernel's FUSE protocol, spoken directly."""

from .binding import KernelBinding

__all__ = ["KernelBinding"]
