"""Dropping a file's pages from the kernel's page cache, by a helper process.

Pages are kept over opens, since content never changes; pages of content that failed verification must be dropped.
FUSE_NOTIFY_INVAL_INODE waits for pages that are being read, and its sender cannot be killed meanwhile (D state): so a
small helper process sends it, and the daemon keeps serving whatever happens to the helper.
"""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from typing import Final

from ...config import helper_environ
from . import abi

log = logging.getLogger(__name__)

# Waiting reads end by their own deadline, 120 s by default; no page stays locked for longer.
PATIENCE_S: Final = 180.0
# Its exit status is the errno; ENOENT says that the kernel does not know the inode, and then it has no pages.
_SEND: Final = (
    "import os,sys\n"
    "try: os.write(int(sys.argv[1]), bytes.fromhex(sys.argv[2]))\n"
    "except OSError as e: sys.exit(e.errno if e.errno != 2 else 0)"
)


def drop_pages(device: int, node: int) -> bool:
    """Drops all pages of a node on the connection of this descriptor. Returns False when that failed or takes longer
    than ``PATIENCE_S``. Blocks: never called on a thread that serves requests."""
    body = abi.inval_inode_out.pack(node, 0, 0)  # from 0, of length 0: to the end
    message = abi.out_header.pack(abi.out_header.size + len(body), abi.NotifyCode.INVAL_INODE, 0) + body
    command = [sys.executable, "-I", "-S", "-c", _SEND, str(device), message.hex()]
    helper = subprocess.Popen(command, pass_fds=[device], stdin=subprocess.DEVNULL, env=helper_environ())
    try:
        status = helper.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        helper.kill()  # it ends when the page it waits for is answered
        log.error("event=pages-not-dropped node=%d error=%s", node, f"still waiting after {PATIENCE_S:.0f} s")
        return False
    if status:
        log.error("event=pages-not-dropped node=%d error=%s", node, errno.errorcode.get(status, status))
        return False
    log.debug("event=pages-dropped node=%d", node)
    return True
