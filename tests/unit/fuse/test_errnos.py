"""The errno table is complete and as promised in interface.md."""

from __future__ import annotations

import errno
import inspect

import pytest

from hffs import errors
from hffs.fuse.errnos import ERRNOS, errno_of

OURS = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.HffsError)]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_class_has_its_own_row(kind: type[errors.HffsError]) -> None:
    assert kind in ERRNOS


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_the_docstring_of_an_error_names_its_errno_and_its_own_exit_code(kind: type[errors.HffsError]) -> None:
    text = " ".join((kind.__doc__ or "").split())
    assert errno.errorcode[ERRNOS[kind]] in text
    if "exit_code" in vars(kind):
        assert f"Exit code {kind.exit_code}" in text


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.EntryNotFound("x"), errno.ENOENT),
        (errors.AccessDenied("x"), errno.EACCES),
        (errors.IntegrityError("x"), errno.EIO),
        (errors.HubUnreachable("x"), errno.EIO),
        (errors.DeadlineExceeded("x"), errno.ETIMEDOUT),
        (errors.ContentChanged("x"), errno.ESTALE),
        (errors.ReadOnly("x"), errno.EROFS),
    ],
)
def test_errnos_are_those_of_the_interface(error: errors.HffsError, number: int) -> None:
    assert errno_of(error) == number


def test_no_error_becomes_enospc_or_eagain() -> None:
    assert not {errno.ENOSPC, errno.EAGAIN, errno.EDQUOT} & set(ERRNOS.values())


@pytest.mark.allow_warnings("unexpected-error")
def test_an_exception_that_is_no_hffs_error_is_eio_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert errno_of(RuntimeError("a bug")) == errno.EIO
    assert "unexpected-error" in caplog.text


def test_an_error_is_one_line_with_what_happened_and_the_remedy() -> None:
    assert str(errors.NotFound("no such repo", "check the name")) == "no such repo: check the name"
    assert str(errors.NotFound("no such repo")) == "no such repo"
