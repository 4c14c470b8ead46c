"""The kernel's door: bindings, and the table from our errors to errnos."""

from .errnos import errno_of
from .libfuse import LibfuseBinding

__all__ = ["LibfuseBinding", "errno_of"]
