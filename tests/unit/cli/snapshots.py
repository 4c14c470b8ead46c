"""Synthetic snapshots of a job, and a program that runs ``hffs hydrate`` with them."""

from __future__ import annotations

from typing import Any

from hffs.control.messages import Job, JobError, JobFile

KEPT = "fetched data is kept; run the same command to continue"
MIB = 2**20


def job(state: str = "running", **more: Any) -> Job:
    """A snapshot: 200 of 500 MiB of ``acme/tiny`` are local, half of that fetched in 4 s."""
    made: Any = {
        "id": "7",
        "kind": "hydrate",
        "target": "acme/tiny",
        "state": state,
        "started_at": 1000.0,
        "updated_at": 1004.0,
        "bytes_done": 200 * MIB,
        "bytes_total": 500 * MIB,
        "bytes_fetched": 100 * MIB,
        "bytes_per_s": 35.0 * MIB,
        "eta_s": 9.4,
        "files_done": 3,
        "files_total": 12,
        "active": [],
        "finished": [],
        "errors": [],
        "workers": {"active": 4, "limit": 10, "bytes_per_s": 35.0 * MIB, "why": "measuring", "list": []},
        **more,
    }
    return made  # type: ignore[no-any-return]


def done(**more: Any) -> Job:
    return job("done", **{"bytes_done": 500 * MIB, "files_done": 12, "eta_s": 0.0, **more})


def file(path: str, size: int | None = 100 * MIB, bytes_done: int = 25 * MIB, state: Any = "fetching") -> JobFile:
    return {"path": path, "size": size, "etag": "e", "bytes_done": bytes_done, "state": state}


def error(path: str, exit_code: int, what: str = "it broke", remedy: str = "") -> JobError:
    return {"path": path, "what": what, "remedy": remedy, "exit_code": exit_code}


BUSY = job(
    active=[
        file("unet/diffusion_pytorch_model-00001-of-00004.fp16.safetensors", bytes_done=50 * MIB),
        file("text_encoder/model.safetensors", bytes_done=100 * MIB, state="verifying"),
        file("模型/权重文件很长的名字一二三四五六七八九十一二三四.bin", 1023 * MIB, 1),
        file("a\x1b[2J[red]b", None, 3),
        file("empty", 0, 0),
    ]
)


PROGRAM = """
import fcntl, sys, termios, time, types
if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches it
from tests.unit.cli import snapshots as made
def follow(target, **options):
    try:
        yield made.BUSY
        if sys.argv[1] == "wait":
            time.sleep(60)
        while sys.argv[1] == "endless":
            yield made.BUSY
    except GeneratorExit:
        print("cancelled", file=sys.stderr)
        raise
    yield made.done()
module = types.ModuleType("hffs.api.hydrate")
module.follow = follow
sys.modules["hffs.api.hydrate"] = module
from hffs.cli import main
sys.exit(main(["hydrate", *sys.argv[2:]]))
"""
