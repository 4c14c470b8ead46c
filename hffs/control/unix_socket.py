"""Unix sockets of one user: listening, and the peer's uid. Used by ``server`` and ``client``. Functions only."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from ..errors import HffsError


class SocketInUse(HffsError):
    """Another daemon listens on this socket: it serves the mountpoint, or is starting to."""


def listen(path: str, backlog: int) -> socket.socket:
    """Returns a socket listening at ``path``, mode 0600; replaces the socket of a dead daemon. The directory is 0700,
    so no other user can connect before the chmod. Raises SocketInUse, HffsError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _answers(path):
            raise SocketInUse(f"another daemon listens on {path}", "unmount that mount first")
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as wrong:
        listener.close()
        remedy = "set HFFS_RUNTIME_DIR to a shorter path you may write to"
        raise HffsError(f"cannot listen on {path} ({wrong.strerror or wrong})", remedy) from wrong
    except HffsError:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    """Returns whether a process listens on this socket; that of a dead daemon refuses connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
    return True


def peer_uid(sock: socket.socket) -> int:
    """Returns the uid of the process that connected, or of the one that listens (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
