"""Names of repos as users write them. No server is asked whether a name exists. Pure functions, any thread."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from huggingface_hub import parse_hf_uri
from huggingface_hub.errors import HfUriError

from ...errors import NameRefused, UsageError
from ...model import RepoRef, RepoType
from ...names import check_name

ACCEPTED: Final = "write [datasets/|spaces/]ORG/NAME[@REVISION][/FOLDER]"

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SEGMENTS: Final = {"models": RepoType.MODEL, "datasets": RepoType.DATASET, "spaces": RepoType.SPACE}
_SINGULAR: Final = frozenset(RepoType)
_ELSEWHERE: Final = frozenset({"kernels", "buckets", "kernel", "bucket"})  # other things the Hub keeps
_WEB: Final = ("huggingface.co/", "www.huggingface.co/", "hf.co/", "git@")
# What git refuses in a ref's name (git-check-ref-format), so that no revision can leave its segment of a URL.
_REVISION: Final = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_ECHO: Final = re.compile(r": '[^']*'$")  # of the name, at the end of huggingface_hub's message
# parse_hf_uri accepts names of two parts only; a legacy name is parsed below this one, which is then removed.
_STAND_IN: Final = "legacy/"


def parse_repo(
    text: str,
    *,
    type: RepoType | str | None = None,  # noqa: A002 - the Hub's own name for it
    revision: str | None = None,
    subfolder: str | None = None,
) -> RepoRef:
    """The repo that ``[hf://][datasets/|spaces/]ORG/NAME[@REVISION][/PATH/IN/REPO]`` and the options name.

    Options repeat the text or supply what it leaves out. Raises UsageError for a malformed name, another kind of
    source, or a contradiction between the two.
    """
    body = text.removeprefix("hf://")
    if _SCHEME.match(body) or body.startswith(_WEB):
        raise UsageError(f"{text!r} is an address, not the name of a repo", ACCEPTED)
    if not body or body[0] in "/.~" or not body.isprintable():
        raise UsageError(f"{text!r} is not the name of a repo", ACCEPTED)
    found_type, rest = _split_type(text, body, type)
    found_id, found_revision, found_path = _parse(text, found_type, rest)
    wanted_revision = unquote(revision) if revision else None
    if wanted_revision and found_revision and wanted_revision != found_revision:
        raise UsageError(f"{text!r} and --revision {revision} contradict each other", "give the revision once")
    found_revision = found_revision or wanted_revision
    if found_revision is not None and not _is_revision(found_revision):
        raise UsageError(f"{found_revision!r} cannot be the name of a revision", "give a branch, a tag or a commit")
    wanted_path = (subfolder or "").strip("/")
    if wanted_path and found_path and wanted_path != found_path:
        raise UsageError(f"{text!r} and --subfolder {subfolder} contradict each other", "give the folder once")
    folder = found_path or wanted_path
    if folder:
        try:
            check_name(folder)
        except NameRefused as refused:
            raise UsageError(f"{folder!r} cannot be a folder of a repo", refused.remedy) from None
    return RepoRef(found_type, found_id, found_revision, folder)


def _split_type(text: str, body: str, given: RepoType | str | None) -> tuple[RepoType, str]:
    try:
        wanted = RepoType(given) if given else None
    except ValueError:
        raise UsageError(f"{given!r} is no type of repo", "it is model, dataset or space") from None
    first, _, rest = body.partition("/")
    if first in _ELSEWHERE:
        raise UsageError(f"{text!r} is no model, dataset or space", ACCEPTED)
    if first in _SINGULAR:
        raise UsageError(f"{text!r} is not the name of a repo", f"did you mean {first}s/…")
    if first not in _SEGMENTS:
        return wanted or RepoType.MODEL, body
    if not rest.strip("/"):
        raise UsageError(f"{text!r} names no repo", ACCEPTED)
    if wanted not in (None, _SEGMENTS[first]):
        raise UsageError(f"{text!r} and --type {wanted} contradict each other", "give the type once")
    return _SEGMENTS[first], rest


def _parse(text: str, repo_type: RepoType, rest: str) -> tuple[str, str | None, str]:
    legacy = "/" not in rest.rstrip("/").partition("@")[0]
    try:
        uri = parse_hf_uri(f"hf://{repo_type}s/{_STAND_IN if legacy else ''}{rest}")
    except HfUriError as wrong:
        detail = " ".join(getattr(wrong, "msg", "").replace(_STAND_IN, "").split())
        remedy = _ECHO.sub("", detail.rstrip(". "))
        raise UsageError(f"{text!r} is not the name of a repo", remedy or ACCEPTED) from None
    if not uri.id.isascii():  # not every huggingface_hub 1.x checks it
        raise UsageError(f"{text!r} is not the name of a repo", "names are of ASCII letters, digits, '-', '_' and '.'")
    after = rest.partition("@")[2]
    if uri.revision and after.startswith(uri.revision) and after[len(uri.revision) :][:1] not in ("", "/"):
        # parse_hf_uri cuts refs/pr/1x into refs/pr/1 and x.
        raise UsageError(f"{text!r} has a malformed revision", "write a pull request as ORG/NAME@refs/pr/1")
    return uri.id.removeprefix(_STAND_IN) if legacy else uri.id, uri.revision, uri.path_in_repo


def _is_revision(name: str) -> bool:
    return (
        bool(_REVISION.fullmatch(name))
        and not name.startswith(("-", "/"))
        and not name.endswith(("/", ".lock"))
        and not any(part.startswith(".") or not part for part in name.split("/"))
        and ".." not in name
    )
