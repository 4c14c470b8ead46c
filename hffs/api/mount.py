"""``hffs.mount``: a repo as a directory for as long as a ``with`` block lasts, or until ``unmount``.

Used by programs and by ``hffs mount``. Builds the daemon's MountSpec (``plan``), starts the daemon in the background
and waits for the mount to answer. A Mount is used from one thread at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .. import config
from ..control.messages import Status
from ..daemon import launcher
from ..daemon.mount_spec import MountSpec
from ..errors import MountFailed, MountNotFound, UsageError
from ..system import mountpoint
from . import mounts
from .options import parsed

if TYPE_CHECKING:
    from .hydrate import Hydrated, Progress
    from .verify import Verified


def plan(
    repo: str,
    where: str | None,
    options: dict[str, Any],
    *,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    revision: str | None = None,
    subfolder: str | None = None,
) -> MountSpec:
    """The daemon's MountSpec, with settings from ``options``, environment and files. ``@NAME`` for a repo stands for
    the keys of NAME.toml (``config.files.mount_file``); arguments take precedence over them. Raises UsageError,
    NotFound, and the errors of ``mountpoint.check`` when nothing can be mounted there."""
    given = {"repo": None if repo.startswith("@") else repo, "mountpoint": where}
    given |= {"type": type, "revision": revision, "subfolder": subfolder}
    resolved = config.resolve(options, mount=repo[1:] if repo.startswith("@") else None)
    naming = {**resolved.mount_keys, **{name: value for name, value in given.items() if value is not None}}
    if "repo" not in naming:
        raise UsageError(f"{resolved.files[-1][0]} names no repo", 'write repo = "ORG/NAME" into it')
    if "mountpoint" not in naming:
        raise UsageError("no mountpoint is named", "name an empty directory after REPO, see hffs mount --help")
    if where is None and not naming["mountpoint"].startswith(("/", "~")):
        raise UsageError(
            f"the mountpoint {naming['mountpoint']!r} of a file must be an absolute path", "begin it with /"
        )
    settings = resolved.settings
    # The daemon's working directory is /: paths must not depend on the caller's.
    paths: dict[str, Any] = {
        name: os.path.abspath(os.path.expanduser(path))
        for name in ("cache_dir", "runtime_dir", "log_file", "token_file")
        if (path := getattr(settings, name))
    }
    settings = replace(settings, **paths)
    real = mountpoint.check(naming.pop("mountpoint"), settings.runtime_dir)
    return MountSpec(naming.pop("repo"), real, settings, **naming)


def mount(
    repo: str,
    mountpoint: str | os.PathLike[str] | None = None,
    *,
    type: str | None = None,  # noqa: A002 - as in plan
    revision: str | None = None,
    subfolder: str | None = None,
    **options: Any,
) -> Mount:
    """Mounts ``repo`` and returns once the mount answers; ``options`` are those of ``hffs mount``.

    Without a mountpoint a temporary directory is used and removed afterwards, unless ``repo`` is an ``@NAME``, whose
    file names one. Used in a ``with`` statement it is unmounted at its end. Raises HffsError.
    """
    given = parsed(options)
    temporary = tempfile.mkdtemp(prefix="hffs-") if mountpoint is None and not repo.startswith("@") else None
    try:
        where = os.fspath(mountpoint) if mountpoint is not None else temporary
        spec = plan(repo, where, given, type=type, revision=revision, subfolder=subfolder)
        ready = launcher.start_daemon(spec)
    except BaseException:
        if temporary:
            os.rmdir(temporary)
        raise
    return Mount(spec.mountpoint, ready.commit, spec.settings.runtime_dir, temporary=temporary is not None)


class Mount:
    """A running mount: ``path`` is its mountpoint, ``commit`` the one it shows until it is unmounted."""

    def __init__(self, path: str, commit: str, runtime_dir: str, *, temporary: bool = False) -> None:
        self.path = path
        self.commit = commit
        self._runtime_dir = runtime_dir
        self._temporary = temporary

    def status(self) -> Status:
        """The daemon's status now. Raises MountNotFound once it is unmounted."""
        return mounts.status_of(self.path, self._runtime_dir)[0]

    def hydrate(
        self,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        to: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Hydrated:
        """Fetches all files of the mount, or those that the patterns select, to the local disk and verifies them; as
        ``hffs.hydrate``."""
        from .hydrate import hydrate

        return hydrate(
            self.path,
            to=to,
            force=force,
            progress=progress,
            include=tuple(include),
            exclude=tuple(exclude),
            runtime_dir=self._runtime_dir,
        )

    def verify(
        self,
        *,
        require: str | Sequence[str] = (),
        fix: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        progress: Callable[[Progress], None] | None = None,
    ) -> Verified:
        """Checks the local data of the mount; as ``hffs.verify``."""
        from .verify import verify

        return verify(
            self.path,
            require=require,
            fix=fix,
            progress=progress,
            include=tuple(include),
            exclude=tuple(exclude),
            runtime_dir=self._runtime_dir,
        )

    def unmount(self, lazy: bool = False) -> None:
        """Unmounts; does nothing when it is not mounted any more. Raises MountFailed when it is busy."""
        with suppress(MountNotFound):
            mounts.unmount(self.path, lazy, self._runtime_dir)
        if self._temporary:
            with suppress(FileNotFoundError):
                os.rmdir(self.path)

    def __fspath__(self) -> str:
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.unmount()
        except MountFailed:  # a loaded model still maps its weights: they stay readable until it is released
            self.unmount(lazy=True)

    def __repr__(self) -> str:
        return f"Mount({self.path!r}, commit={self.commit[:12]!r})"
