"""A text for a bug report: the machine, the findings, the settings that are not defaults. Without secrets or names.

Tokens are never read for it. The home directory is written ~; names of users, of repos, and of hosts other than the
public Hub's are left out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import fields
from importlib import metadata
from typing import Final

from ... import __version__
from ...config import Settings
from .finding import DoctorFinding

_PACKAGES: Final = ("huggingface_hub", "requests", "urllib3", "mfusepy", "diskcache", "isal", "rich", "PyYAML")
_HIDDEN: Final = "(set)"
# Paths and addresses that may name a person, a project or a company's own server.
_PRIVATE: Final = frozenset({"token_file", "include", "exclude"})
_PUBLIC_HUB: Final = Settings().endpoint


def report(findings: Iterable[DoctorFinding], settings: Settings) -> str:
    """Markdown, to be pasted into an issue."""
    lines = ["### hffs doctor", "", *_machine(), "", "```"]
    for each in findings:
        if each.area == "mounts":
            lines.append(f"{each.state:<5} {each.area:<8} {_mount(each)}")
        else:
            lines.append(f"{each.state:<5} {each.area:<8} {_clean(each.what, settings)}")
    return "\n".join([*lines, "```", "", *_settings(settings), ""])


def _machine() -> list[str]:
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux") if _has_release() else platform.system()
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    user = "root" if os.geteuid() == 0 else "not root"
    return [
        f"hffs {__version__}, Python {platform.python_version()}, {system}, Linux {platform.release()}, {user}",
        "",
        ", ".join(versions),
    ]


def _has_release() -> bool:
    return os.path.exists("/etc/os-release") or os.path.exists("/usr/lib/os-release")


def _settings(settings: Settings) -> list[str]:
    plain = Settings()
    changed = []
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value != getattr(plain, field.name):
            shown = _HIDDEN if field.name in _PRIVATE else _clean(str(value), settings)
            changed.append(f"- {field.name}: {shown}")
    return ["Settings:", "", *changed]


def _mount(finding: DoctorFinding) -> str:
    words = finding.what.split()
    state = next((word for word in ("dead", "degraded", "offline", "restarting", "serves") if word in words), "")
    return f"a mount: {state}" if state else "a mount" if "/" in finding.what else finding.what


def _clean(text: str, settings: Settings) -> str:
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = text.replace(home, "~")
    if settings.endpoint != _PUBLIC_HUB:
        host = settings.endpoint.partition("://")[2].partition("/")[0]
        for name in (settings.endpoint, host, host.partition("@")[2] or host):
            text = text.replace(name, "(own endpoint)")
    before, logged, after = text.partition("logged in as ")
    return f"{before}{logged}(a user),{after.partition(',')[2]}".rstrip(",") if logged else text
