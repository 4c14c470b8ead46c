"""Making the kernel forget a file's pages, from a process of its own.

Pages are kept over opens, since content never changes; but content that proved wrong must not be read from them for
ever. FUSE_NOTIFY_INVAL_INODE waits for pages that are being read, and whoever sends it then cannot be killed (D state):
so a small process sends it, and whatever becomes of that one, the daemon serves on.
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

# Reads that wait end by their own deadline, 120 s unless set otherwise; longer than that nobody holds a page.
PATIENCE_S: Final = 180.0
# Its exit status is the errno; ENOENT says that the kernel does not know the inode, and then it has no pages.
_SEND: Final = (
    "import os,sys\n"
    "try: os.write(int(sys.argv[1]), bytes.fromhex(sys.argv[2]))\n"
    "except OSError as e: sys.exit(e.errno if e.errno != 2 else 0)"
)


def drop_pages(device: int, node: int) -> bool:
    """Have all pages of a node dropped, on the connection of this descriptor; False when that failed or still goes on
    after ``PATIENCE_S``. Blocks: not for a thread that serves requests."""
    body = abi.inval_inode_out.pack(node, 0, 0)  # from 0, of length 0: to the end
    message = abi.out_header.pack(abi.out_header.size + len(body), abi.NotifyCode.INVAL_INODE, 0) + body
    command = [sys.executable, "-I", "-S", "-c", _SEND, str(device), message.hex()]
    helper = subprocess.Popen(command, pass_fds=[device], stdin=subprocess.DEVNULL, env=helper_environ())
    try:
        status = helper.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        helper.kill()  # it goes when the page it waits for is answered
        log.error("event=pages-not-dropped node=%d error=%s", node, f"still waiting after {PATIENCE_S:.0f} s")
        return False
    if status:
        log.error("event=pages-not-dropped node=%d error=%s", node, errno.errorcode.get(status, status))
        return False
    log.debug("event=pages-dropped node=%d", node)
    return True
