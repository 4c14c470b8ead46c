"""Untrusted names and texts: which may become a path, and how they are shown.

A name from a server, an archive or a definition passes ``check_name`` before it becomes a path, and ``shown`` before it
is written to a terminal or a log. Pure functions, any thread.
"""

from __future__ import annotations

from typing import Final

from .errors import NameRefused

NAME_BYTES: Final = 255  # NAME_MAX of every file system Linux mounts
PATH_BYTES: Final = 4096  # PATH_MAX
# Parts of a path. Checkpoints have some five, datasets ten; each level costs memory, and 4096 bytes could contain 2048.
DEPTH: Final = 64
# Bytes. Bigger sizes in a listing are refused: this is the biggest file of ext4, and 30 times the Hub's own limit. The
# state of such a blob takes 400 MB; for the 2**63 bytes that a listing could claim it would fit into no memory.
MOST_SIZE: Final = 1 << 44


def is_below(path: str, folder: str) -> bool:
    """Returns whether ``path`` is ``folder`` or below it; every path is below ""."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def check_name(path: str) -> str:
    """Returns ``path`` if it is safe as a path relative to a directory.

    Raises NameRefused for a path that would leave the directory or cannot exist on Linux: empty, absolute, with a part
    that is empty, ``.`` or ``..``, with a NUL, not valid Unicode, with a part over 255 bytes, over 4096 bytes or 64
    parts in all.
    """
    if not isinstance(path, str) or not path:
        raise NameRefused(f"{path!r} is not a name")
    text = repr(path if len(path) <= 80 else path[:77] + "...")
    if path.startswith("/"):
        raise NameRefused(f"{text} is an absolute path", "it must be relative")
    if "\0" in path:
        raise NameRefused(f"{text} contains a NUL character")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise NameRefused(f"{text} is not valid Unicode") from None
    if len(encoded) > PATH_BYTES:
        raise NameRefused(f"{text} is longer than {PATH_BYTES} bytes")
    parts = encoded.split(b"/")
    if len(parts) > DEPTH:
        raise NameRefused(f"{text} has more than {DEPTH} parts")
    for part in parts:
        if part in (b"", b".", b".."):
            raise NameRefused(f"{text} has {part.decode()!r} between slashes", "it must be a plain relative path")
        if len(part) > NAME_BYTES:
            raise NameRefused(f"{text} has a part longer than {NAME_BYTES} bytes")
    return path


def shown(text: str, keep: str = "") -> str:
    """Returns ``text`` with the characters that a terminal may interpret or hide (control, direction, undecodable)
    escaped, except those of ``keep``."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
