"""Exceptions of requests and urllib3, and statuses of HTTP, as HffsErrors.

Everything that calls requests does so inside ``http_errors``. Messages of libraries are never passed on: they hold
URLs, and URLs hold signatures. Pure but for the wall clock of ``retry_after``; any thread.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import requests
import urllib3

from ...errors import BadResponse, ContentChanged, HffsError, HubUnreachable, RateLimited
from .headers import http_date, retry_after
from .urls import host_of

# Seconds. The Hub counts requests in windows of 5 minutes; a longer wait is a mistake of the server or of its clock,
# and must not put a block off until tomorrow.
MAX_WAIT: Final = 300.0

# Errnos that describe a connection; the two that only say that time ran out are left to the timeout's own sentence.
_ERRNOS: Final = frozenset(errno.errorcode) - {errno.ETIMEDOUT, errno.EAGAIN}
_CUT_OFF: Final = (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead)
_Kinds = tuple[type[BaseException], ...]


def status_error(about: object, host: str, status: int, headers: Mapping[str, str], *, limit_remedy: str) -> HffsError:
    """The error for a status that any HTTP server may send; refusals of access and missing files are the caller's.
    ``about`` is what was requested, for the message; ``limit_remedy`` what to do about a rate limit."""
    wait = retry_after(headers, http_date(headers.get("date")) or time.time())  # a date is by the server's own clock
    wait = None if wait is None else min(wait, MAX_WAIT)
    if status == 416:
        return ContentChanged(f"{about} is not as long as its listing says")
    if status == 429:
        seconds = "" if wait is None else f" for {wait:.0f} s"
        return RateLimited(f"{host} asks us to wait{seconds}: too many requests", limit_remedy, wait)
    if status == 408 or status >= 500:
        when = "later" if wait is None else f"in {wait:.0f} s"
        return HubUnreachable(f"{host} answered {status} when asked for {about}", f"try again {when}", wait)
    return BadResponse(f"{host} answered {status} when asked for {about}")


@contextmanager
def http_errors(about: object, url: str) -> Iterator[None]:
    """Around a request to ``url`` by requests, or reading its response: raises HffsErrors only."""
    host = host_of(url)
    try:
        yield
    except HffsError:
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise BadResponse(f"{host} leads to an address that cannot be asked") from None
    except (
        requests.exceptions.InvalidHeader,
        urllib3.exceptions.DecodeError,
        requests.exceptions.ContentDecodingError,
    ):
        raise BadResponse(f"{host} sent an answer for {about} that cannot be read") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        if _find(error, _CUT_OFF):
            raise BadResponse(f"{host} ended its answer for {about} too early") from None
        raise unreachable(host, error) from None
    except (ValueError, AttributeError) as error:
        # urllib3 and http.client raise these for malformed chunks and for a connection closed under them.
        raise BadResponse(f"the answer of {host} for {about} broke off ({type(error).__name__})") from None


def unreachable(host: str, error: BaseException, *, proxy_errors: _Kinds = (), timeouts: _Kinds = ()) -> HubUnreachable:
    """The error for a request that ``host`` did not answer, with the reason as far as the chain of exceptions names
    it. ``proxy_errors`` and ``timeouts`` are those of another client than requests."""
    remedy = "check the network, or the endpoint if you have set one"
    if _find(error, (ssl.SSLCertVerificationError,)):
        return HubUnreachable(
            f"the certificate of {host} is not trusted", "name your CA in REQUESTS_CA_BUNDLE and SSL_CERT_FILE"
        )
    if _find(error, (ssl.SSLError,)):
        return HubUnreachable(f"cannot reach {host}: TLS failed", remedy)
    if _find(error, (socket.gaierror, urllib3.exceptions.NameResolutionError)):
        return HubUnreachable(f"cannot reach {host}: the name cannot be resolved", remedy)
    if _find(error, (requests.exceptions.ProxyError, *proxy_errors)):
        return HubUnreachable(f"cannot reach {host} through the proxy", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
    # Before timeouts: urllib3 derives a refused connection from its connect timeout.
    number = next((one.errno for one in _chain(error) if isinstance(one, OSError) and one.errno in _ERRNOS), None)
    if number:
        return HubUnreachable(f"cannot reach {host}: {os.strerror(number).lower()}", remedy)
    if _find(error, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError, *timeouts)):
        return HubUnreachable(f"{host} did not answer in time", remedy)
    return HubUnreachable(f"cannot reach {host}: the connection broke", remedy)


def _find(error: BaseException, kinds: _Kinds) -> bool:
    return any(isinstance(one, kinds) for one in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those it was made from, outermost first."""
    todo: list[BaseException] = [error]
    for _ in range(16):  # deeper than any of these libraries nests; a circle must end too
        if not todo:
            return
        found = todo.pop(0)
        yield found
        inner = [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
        todo += [one for one in inner if isinstance(one, BaseException)]
