"""Refusals of a Hub and exceptions of huggingface_hub, as HffsErrors.

Everything that calls huggingface_hub does so inside ``hub_errors``; a status other than the wanted one becomes an error
by ``refusal``. Messages of libraries and request headers never become part of an error: they contain signatures and
tokens.
Any thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from huggingface_hub import errors as hub

from ...errors import (
    AccessDenied,
    BadResponse,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    RepoNotFound,
    RevisionNotFound,
    UsageError,
)
from ...model import Commit, RepoRef, RepoType
from ..http import errors as http
from ..http.urls import host_of
from .urls import repo_page

# huggingface_hub 1.x uses httpx, 2.x httpx2: whichever its own errors descend from.
httpx: Final[Any] = importlib.import_module(
    next(
        base.__module__.partition(".")[0] for base in hub.HfHubHTTPError.__mro__ if base.__module__.startswith("httpx")
    )
)

LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"
BAD_TOKEN: Final = "invalid credentials in authorization header"  # the Hub's words for it, in lower case
DISABLED: Final = "access to this resource is disabled."


@dataclass(frozen=True, slots=True)
class RequestSubject:
    """What a request is about, for messages."""

    endpoint: str
    type: RepoType
    id: str
    revision: str | None = None
    path: str | None = None
    pinned: bool = False  # at a commit, so that the repo is known to exist

    @classmethod
    def of_ref(cls, endpoint: str, ref: RepoRef) -> RequestSubject:
        return cls(endpoint, ref.type, ref.id, ref.revision)

    @classmethod
    def of_commit(cls, commit: Commit, path: str | None = None) -> RequestSubject:
        return cls(commit.source, commit.type, commit.id, commit.sha, path or None, pinned=True)

    @property
    def repo(self) -> str:
        return f"{self.type} {self.id}"

    @property
    def page(self) -> str:
        return repo_page(self.endpoint, self.type, self.id)

    def __str__(self) -> str:
        return f"{self.path!r} of {self.repo}" if self.path else self.repo


def refusal(
    about: RequestSubject, status: int, headers: Mapping[str, str], *, url: str | None = None, remedy: str = LOG_IN
) -> HffsError:
    """The error for a status other than the wanted one. ``url`` is where it came from (the Hub if None), ``remedy``
    what to do about a bad token.

    The order is that of huggingface_hub's own ``hf_raise_for_status``, without its guess by https URLs.
    """
    host = host_of(url or about.endpoint)
    code, message = headers.get("x-error-code"), (headers.get("x-error-message") or "").lower()
    if code == "RevisionNotFound":
        return RevisionNotFound(f"{about.repo} has no revision {about.revision!r}", f"see {about.page}")
    if code == "EntryNotFound":
        return _no_entry(about)
    if code == "GatedRepo":
        first = f"{LOG_IN}, and " if status == 401 else ""
        return AccessDenied(f"{about.repo} is gated", f"{first}ask for access at {about.page}")
    if message == DISABLED:
        return AccessDenied(f"{about.repo} has been disabled by the Hub", f"see {about.page}")
    if status == 401 and message == BAD_TOKEN:
        return AccessDenied(f"{host} refuses the token: it is wrong or has expired", remedy, token=True)
    if code == "RepoNotFound" or (status == 404 and not about.path):
        return RepoNotFound(
            f"there is no {about.repo} on {host}, or it is private and the token may not see it",
            "check the name and the type" if status != 401 else f"check the name and the type, or {LOG_IN}",
        )
    if status == 401:  # the same for a missing and for a private repo
        if about.pinned:
            return AccessDenied(f"{host} refuses access to {about}", LOG_IN)
        return RepoNotFound(f"there is no {about.repo} on {host}, or it is private", f"check the name, or {LOG_IN}")
    if status == 403:
        return AccessDenied(f"{host} refuses access to {about}", f"check the token's permissions, or see {about.page}")
    if status == 404:
        return _no_entry(about)
    return http.status_error(about, host, status, headers, limit_remedy=f"{LOG_IN} for a higher limit")


def _no_entry(about: RequestSubject) -> EntryNotFound:
    at = f" at {about.revision[:12]}" if about.revision else ""
    return EntryNotFound(f"there is no {about.path!r} in {about.repo}{at}" if about.path else f"{about.repo} is empty")


def unreachable(host: str, error: BaseException) -> HubUnreachable:
    """As ``http.errors.unreachable``, for the client below huggingface_hub."""
    return http.unreachable(host, error, proxy_errors=(httpx.ProxyError,), timeouts=(httpx.TimeoutException,))


@contextmanager
def hub_errors(about: RequestSubject) -> Iterator[None]:
    """Around calls of huggingface_hub: raises HffsErrors only."""
    host = host_of(about.endpoint)
    try:
        yield
    except HffsError:
        raise
    except hub.HfHubHTTPError as error:
        raise refusal(about, error.response.status_code, error.response.headers) from None
    except hub.OfflineModeIsEnabled:
        raise HubUnreachable(
            f"huggingface_hub is switched offline, {host} was not asked", "unset HF_HUB_OFFLINE"
        ) from None
    except hub.HFValidationError:
        raise UsageError(f"{about.id!r} cannot be the name of a repo") from None
    except httpx.DecodingError:
        raise BadResponse(f"{host} sent an answer that cannot be decoded") from None
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise BadResponse(f"{host} redirects in a circle or to a malformed address") from None
    except (httpx.HTTPError, httpx.StreamError, OSError, hub.LocalTokenNotFoundError) as error:
        raise unreachable(host, error) from None
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError) as error:
        # HfApi takes answers apart unchecked: what it stumbles over is the server's mistake.
        raise BadResponse(f"{host} sent an answer about {about} that makes no sense ({type(error).__name__})") from None
