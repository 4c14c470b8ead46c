"""The token: found where huggingface_hub finds it, read anew for each request, never shown.

``Auth.token`` is called right before each request to the Hub. It reads every time (30 us, beside a request of
milliseconds), so that `hf auth login`, a rotated file or a refreshed OAuth token count from the next request on. It
neither sends nor logs the token. Any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from huggingface_hub import constants, get_token
from huggingface_hub import errors as hub

from ... import config
from ...errors import AccessDenied
from .hub_errors import LOG_IN

# A failed exchange of a CI job's identity for a token; not every huggingface_hub 1.x has it.
_OIDC_ERROR: Final[type[Exception]] = getattr(hub, "OIDCError", OSError)
_CHARACTERS: Final = re.compile(r"[!-~]+")  # that a header may hold


class Token:
    """A secret: only ``header`` reveals it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def header(self) -> str:
        return f"Bearer {self._text}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Token(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a token is not written anywhere")


class Auth:
    """``token_file`` names a file that holds the token; without one it is found as huggingface_hub finds it: HF_TOKEN
    or HUGGING_FACE_HUB_TOKEN, else the file `hf auth login` writes or HF_TOKEN_PATH names, unless
    HF_HUB_DISABLE_IMPLICIT_TOKEN forbids it."""

    def __init__(self, token_file: str | None = None, *, find: Callable[[], str | None] = get_token) -> None:
        self._file = token_file
        self._find = find

    def login_hint(self) -> str:
        """What to do about a refused token, which depends on where it was found."""
        if self._file is not None:
            return f"put a good one into {self._file}"
        variable = config.token_variable()
        if variable is not None:
            return f"set {variable} to a good one and start hffs anew, or unset it and log in with `hf auth login`"
        return LOG_IN

    def token(self) -> Token | None:
        """The present token; None when there is none. Raises AccessDenied when it cannot be read; an explicit
        ``token_file`` never falls back to anonymous access."""
        if self._file is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            return None
        try:
            text = self._find() if self._file is None else Path(self._file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, _OIDC_ERROR) as error:
            where = self._file or "the token of huggingface_hub"
            reason = getattr(error, "strerror", None) or type(error).__name__
            remedy = "mend it, or name another one with --token-file" if self._file else LOG_IN
            raise AccessDenied(f"{where} cannot be read: {reason}", remedy) from None
        text = (text or "").strip()
        if not text:
            if self._file is not None:
                raise AccessDenied(f"{self._file} holds no token", "put one into it, or leave --token-file out")
            return None
        if not _CHARACTERS.fullmatch(text):
            raise AccessDenied("the token holds characters that no token has", LOG_IN)
        return Token(text)
