"""A faithful local Hugging Face Hub for tests and benchmarks, as a library. Start with README.md in this folder."""

from . import faults
from .content import Blob, Content, Synthetic
from .hub import Hub
from .journal import Journal, Record
from .repos import Repo
from .script import Fault, Faults, Match, Scripted
from .shaping import Shape
from .wire import Answer, FilePart, Request

__all__ = [
    "Answer",
    "Blob",
    "Content",
    "Fault",
    "Faults",
    "FilePart",
    "Hub",
    "Journal",
    "Match",
    "Record",
    "Repo",
    "Request",
    "Scripted",
    "Shape",
    "Synthetic",
    "faults",
]
