"""Synthetic statuses of mounts, as daemons send them."""

from __future__ import annotations

from typing import Any

from hffs.api import mounts
from hffs.control.messages import Status

NOW = 1_700_000_000.0
GIB = 2**30


def status(mountpoint: str = "/mnt/model", repo: str = "acme/tiny", **more: Any) -> Status:
    """An idle mount: 1 of 5 GiB is local."""
    record: Any = {
        "mountpoint": mountpoint,
        "repo": repo,
        "type": "model",
        "revision": "main",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "pid": 4711,
        "started_at": NOW - 400,
    }
    made: Any = {
        **mounts.placeholder_status(record, "serving", "", "/run/hffs"),
        "binding": "kernel",
        "endpoint": "https://hub.example",
        "uptime_s": 400.0,
        "listing": "complete",
        "files": 12,
        "bytes_total": 5 * GIB,
        "bytes_local": GIB,
        "bytes_fetched": GIB,
        "requests": 300,
        "workers": {"active": 0, "limit": 10, "bytes_per_s": 0, "why": "", "list": []},
        "cache": {"dir": "/var/cache/hffs", "bytes": GIB, "limit": 50 * GIB, "disk_free": 20 * GIB},
        "last_errors": [],
        "read_ahead": {"kb": 1024, "command": ""},
        "log": "/run/hffs/91b3d6f2f5a01c1e.log",
        **more,
    }
    return made  # type: ignore[no-any-return]


def dead(mountpoint: str, repo: str) -> Status:
    """A mount whose daemon has died."""
    record: Any = {**status(mountpoint, repo), "started_at": NOW}
    return mounts.placeholder_status(
        record, "dead", f"its process 4711 is gone: hffs unmount {mountpoint}", "/run/hffs"
    )


def worker(number: int) -> dict[str, Any]:
    path = f"text_encoder/model-{number:05}-of-00010.safetensors"
    at = {"worker": number, "path": path, "for": "bulk" if number else "demand", "offset": number * 4 * 2**20}
    return {**at, "size": 4 * 2**20, "bytes_per_s": 3e6 * (number + 1), "seconds": 0.3}


def busy(workers: int = 4, **more: Any) -> Status:
    """A mount during a hydration, with a waiting read and an error."""
    at_work = [worker(number) for number in range(workers)]
    why = "each further one brought less"
    return status(
        "/mnt/model",
        "acme/big-model",
        **{
            "workers": {"active": workers, "limit": 10, "bytes_per_s": 30e6, "why": why, "list": at_work},
            "hydration": {"state": "running", "bytes_done": GIB, "bytes_total": 5 * GIB, "bytes_per_s": 30e6,
                          "eta_s": 130.0, "files_done": 3, "files_total": 12},
            "waiting_reads": [{"path": "unet/diffusion_pytorch_model.safetensors", "offset": 4 * 2**20, "size": 1,
                               "seconds": 3.2, "on": "https://hub.example"}],
            "open_files": [{"path": "unet/diffusion_pytorch_model.safetensors", "handles": 2,
                            "served": "kernel-cache", "why": "not all of it is local"}],
            "last_errors": [{"at": NOW - 200, "what": "cannot reach hub.example", "path": "config.json"}],
            **more,
        },
    )  # fmt: skip


LONG = status(
    "/mnt/datasets/模型权重文件很长的名字一二三四五六七八九十",
    "acme/a-very-long-name-of-a-model-that-goes-on-and-on-v2.0",
    bytes_local=5 * GIB,
)
GONE = dead("/mnt/gone", "acme/gone")
