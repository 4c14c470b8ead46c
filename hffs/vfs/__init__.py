"""The read-only file system, knowing no protocol."""

from .filesystem import Attributes, Filesystem
from .tree import ROOT_ID, Node, Patterns, Tree

__all__ = ["ROOT_ID", "Attributes", "Filesystem", "Node", "Patterns", "Tree"]
