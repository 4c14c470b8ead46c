"""The errno table is whole, and says what interface.md promises."""

from __future__ import annotations

import errno
import inspect

import pytest

from hffs import errors
from hffs.fuse.errnos import ERRNOS, errno_of

OURS = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.HffsError)]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_class_has_its_own_line(kind: type[errors.HffsError]) -> None:
    assert kind in ERRNOS


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


def test_no_reader_ever_sees_a_full_disk_or_try_again() -> None:
    assert not {errno.ENOSPC, errno.EAGAIN, errno.EDQUOT} & set(ERRNOS.values())


@pytest.mark.allow_warnings("unexpected-error")
def test_what_is_not_ours_is_eio_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert errno_of(RuntimeError("a bug")) == errno.EIO
    assert "unexpected-error" in caplog.text


def test_an_error_reads_as_one_line_what_happened_and_what_to_do() -> None:
    assert str(errors.NotFound("no such repo", "check the name")) == "no such repo: check the name"
    assert str(errors.NotFound("no such repo")) == "no such repo"
