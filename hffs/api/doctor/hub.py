"""Whether the Hub answers, as which user, and through which proxies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ... import config
from ...config import Settings
from ...errors import AccessDenied, HffsError
from ...sources.hub.auth import Auth
from ...sources.hub.ping import ping
from .finding import Area, DoctorFinding

_AREA: Final = Area("hub")
# Signed URLs tolerate minutes; a clock that is further off than this is not synchronized.
_CLOCK_SECONDS: Final = 60.0
_SLOW_SECONDS: Final = 2.0  # a Hub at the other end of the world answers in half of one


def check(settings: Settings) -> Iterator[DoctorFinding]:
    names = config.proxies()
    if names:
        yield _AREA.ok(f"requests use the proxies of {', '.join(names)}")
    if settings.offline:
        remedy = "remove --offline, or unset HF_HUB_OFFLINE"
        yield _AREA.warn("hffs is set to be offline; the Hub was not asked", remedy)
        return
    auth = Auth(settings.token_file)
    try:
        token = auth.token() is not None
    except AccessDenied as error:
        yield _AREA.fail(error.what, error.remedy)
        return
    began = time.time()
    try:
        answer = ping(settings.endpoint, auth)
    except HffsError as error:
        yield _AREA.fail(error.what, error.remedy)
        return
    took = f"{answer.host} answers in {answer.seconds * 1000:.0f} ms"
    if answer.seconds > _SLOW_SECONDS:
        yield _AREA.warn(took, "check the network, the proxy and the endpoint")
    else:
        yield _AREA.ok(took)
    if answer.date is not None and abs(answer.date - began) > _CLOCK_SECONDS:
        off = f"this machine's clock is {abs(answer.date - began):.0f} s {'behind' if answer.date > began else 'ahead'}"
        yield _AREA.warn(off, "synchronize it: timedatectl set-ntp true")
    yield _login(answer.user, answer.role, token)


def _login(user: str | None, role: str | None, token: bool) -> DoctorFinding:
    if user is not None:
        kind = f", with a {role} token" if role else ""
        return _AREA.ok(f"logged in as {user}{kind}")
    if token:
        remedy = "log in again with `hf auth login`, or set HF_TOKEN"
        return _AREA.fail("the Hub refuses the token: it is wrong or has expired", remedy)
    return _AREA.ok("not logged in: public repos only; hf auth login gives access to others")
