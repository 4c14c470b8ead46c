"""Other people's exceptions and refusals, said in our own words.

Everything in this room that calls huggingface_hub or requests does it inside ``hub_errors`` or ``http_errors``, and
turns a status that says no into an error by ``refusal``. Their messages are never passed on, for they hold URLs, and
URLs hold signatures; nor is any header we sent. Pure but for the wall clock of ``retry_after``; any thread.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import requests
import urllib3
from huggingface_hub import errors as hub

from ...errors import (
    AccessDenied,
    BadResponse,
    ContentChanged,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    RateLimited,
    RepoNotFound,
    RevisionNotFound,
    UsageError,
)
from ...model import Commit, RepoRef, RepoType
from ..http.headers import http_date, retry_after
from .urls import host_of, repo_page

# huggingface_hub 1.x speaks through httpx, 2.x through httpx2: whichever its own errors descend from.
httpx: Final[Any] = importlib.import_module(
    next(
        base.__module__.partition(".")[0] for base in hub.HfHubHTTPError.__mro__ if base.__module__.startswith("httpx")
    )
)

LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"
BAD_TOKEN: Final = "invalid credentials in authorization header"  # the Hub's words for it, in lower case
DISABLED: Final = "access to this resource is disabled."

# Seconds. The Hub counts requests in windows of 5 minutes; a server that wants more has mistyped, or its date has, and
# must not put a block off until tomorrow.
LONGEST_WAIT: Final = 300.0

# What the system can say about a connection, but for the numbers that only say that time ran out.
_NUMBERS: Final = frozenset(errno.errorcode) - {errno.ETIMEDOUT, errno.EAGAIN}


@dataclass(frozen=True, slots=True)
class RequestSubject:
    """What a request was about, for messages."""

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
    """The error that a status other than the wanted one stands for. ``url`` is where it came from (the Hub if None),
    ``remedy`` what to do about a bad token.

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
    if status == 401:
        # The Hub answers so for what is missing and for what is private.
        if about.pinned:
            return AccessDenied(f"{host} does not let us read {about}", LOG_IN)
        return RepoNotFound(f"there is no {about.repo} on {host}, or it is private", f"check the name, or {LOG_IN}")
    if status == 403:
        return AccessDenied(f"{host} refuses access to {about}", f"check the token's permissions, or see {about.page}")
    if status == 404:
        return _no_entry(about)
    if status == 416:
        return ContentChanged(f"{about} is not as long as its listing says")
    if status == 429:
        wait = _wait(headers)
        shown = "" if wait is None else f" for {wait:.0f} s"
        return RateLimited(f"{host} asks us to wait{shown}: too many requests", f"{LOG_IN} for a higher limit", wait)
    if status == 408 or status >= 500:
        wait = _wait(headers)
        when = "later" if wait is None else f"in {wait:.0f} s"
        return HubUnreachable(f"{host} answered {status} when asked for {about}", f"try again {when}", wait)
    return BadResponse(f"{host} answered {status} when asked for {about}")


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds the server wants to be left alone. A date it names is by its own clock, so its own is looked at first."""
    wait = retry_after(headers, http_date(headers.get("date")) or time.time())
    return None if wait is None else min(wait, LONGEST_WAIT)


def _no_entry(about: RequestSubject) -> EntryNotFound:
    at = f" at {about.revision[:12]}" if about.revision else ""
    return EntryNotFound(f"there is no {about.path!r} in {about.repo}{at}" if about.path else f"{about.repo} is empty")


@contextmanager
def hub_errors(about: RequestSubject) -> Iterator[None]:
    """Whatever huggingface_hub and the client below it raise comes out as an HffsError."""
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
        raise BadResponse(f"{host} redirects in a circle or to somewhere impossible") from None
    except (httpx.HTTPError, httpx.StreamError, OSError, hub.LocalTokenNotFoundError) as error:
        raise unreachable(host, error) from None
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError) as error:
        # HfApi takes answers apart without looking: whatever it trips over is the server's doing.
        raise BadResponse(f"{host} sent an answer about {about} that makes no sense ({type(error).__name__})") from None


@contextmanager
def http_errors(about: RequestSubject, url: str) -> Iterator[None]:
    """Whatever requests and urllib3 raise while asking ``url`` comes out as an HffsError."""
    host = host_of(url)
    try:
        yield
    except HffsError:
        raise
    except (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead):
        raise BadResponse(f"{host} ended its answer for {about} too early") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise BadResponse(f"{host} leads to an address that cannot be asked") from None
    except (
        requests.exceptions.InvalidHeader,
        urllib3.exceptions.DecodeError,
        requests.exceptions.ContentDecodingError,
    ):
        raise BadResponse(f"{host} sent an answer for {about} that cannot be read") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        if _find(error, (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead)):
            raise BadResponse(f"{host} ended its answer for {about} too early") from None
        raise unreachable(host, error) from None
    except (ValueError, AttributeError) as error:
        # urllib3 and http.client raise these for malformed chunks and for a connection closed under them.
        raise BadResponse(f"the answer of {host} for {about} broke off ({type(error).__name__})") from None


def unreachable(host: str, error: BaseException) -> HubUnreachable:
    """``host`` could not be asked, and why, as far as the exception's roots tell."""
    remedy = "check the network, or the endpoint if you have set one"
    if _find(error, (ssl.SSLCertVerificationError,)):
        return HubUnreachable(
            f"the certificate of {host} is not trusted", "name your CA in REQUESTS_CA_BUNDLE and SSL_CERT_FILE"
        )
    if _find(error, (ssl.SSLError,)):
        return HubUnreachable(f"cannot reach {host}: TLS failed", remedy)
    if _find(error, (socket.gaierror, urllib3.exceptions.NameResolutionError)):
        return HubUnreachable(f"cannot reach {host}: the name cannot be resolved", remedy)
    if _find(error, (httpx.ProxyError, requests.exceptions.ProxyError)):
        return HubUnreachable(f"cannot reach {host} through the proxy", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
    # Before timeouts: urllib3 derives a refused connection from its connect timeout.
    number = next((one.errno for one in _roots(error) if isinstance(one, OSError) and one.errno in _NUMBERS), None)
    if number:
        return HubUnreachable(f"cannot reach {host}: {os.strerror(number).lower()}", remedy)
    if _find(error, (TimeoutError, httpx.TimeoutException, requests.Timeout, urllib3.exceptions.TimeoutError)):
        return HubUnreachable(f"{host} did not answer in time", remedy)
    return HubUnreachable(f"cannot reach {host}: the connection broke", remedy)


def _find(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    return any(isinstance(one, kinds) for one in _roots(error))


def _roots(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was made from, outermost first."""
    todo: list[BaseException] = [error]
    for _ in range(16):  # deeper than any of these libraries nests; a circle must end too
        if not todo:
            return
        found = todo.pop(0)
        yield found
        inner = [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
        todo += [one for one in inner if isinstance(one, BaseException)]
