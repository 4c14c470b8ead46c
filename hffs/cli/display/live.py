"""Lines redrawn in place on a terminal, by rich. No thread: each ``draw`` is one write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .terminal_layout import Line, Page, drawn


class LiveDisplay(Live):
    """A context in which lines are drawn on ``stream``: with ``full`` on an alternate screen, else below the cursor,
    erased at the end. What is logged to stderr meanwhile appears above the latter."""

    def __init__(self, stream: TextIO, *, full: bool = False) -> None:
        console = Console(file=stream, highlight=False)
        super().__init__(
            console=console, screen=full, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=not full,
        )  # fmt: skip

    def draw(self, lines: Iterable[Line], page: Page) -> None:
        text = "\n".join(drawn(line, page) for line in lines)
        self.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
