"""Lines redrawn in place on a terminal, by rich's Live. No thread: each ``draw`` is one write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .terminal_layout import Line, Page, drawn, page_of


class LiveDisplay:
    """Draws on ``stream`` while it is entered: with ``full`` on an alternate screen, else below the cursor, erased at
    the end. What is logged to stderr meanwhile appears above the latter."""

    def __init__(self, stream: TextIO, *, full: bool = False) -> None:
        self._stream = stream
        console = Console(file=stream, highlight=False)
        self._live = Live(
            console=console,
            screen=full,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=not full,
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *wrong: object) -> None:
        self._live.stop()

    @property
    def page(self) -> Page:
        """The terminal, at its size of this moment."""
        return page_of(self._stream)

    def draw(self, lines: Iterable[Line], page: Page) -> None:
        text = "\n".join(drawn(line, page) for line in lines)
        self._live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
