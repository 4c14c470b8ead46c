"""The views: one file for each kind of mount."""

from .repo import RepoView

__all__ = ["RepoView"]
