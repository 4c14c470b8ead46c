"""The sides of a comparison: the Hub, hffs, rclone and the programs that download. Each a context manager or a call.

Every process started here is ended here by its pid, every wait is bounded. What one costs is read from /proc and from
the Hub's journal, never from the program itself. One thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from .rig import CHECKOUT, RunFailed

COMMAND_SECONDS = 60.0
DOWNLOAD_SECONDS = 180.0  # 1 GiB over one connection of 40 MB/s takes 27
START_SECONDS = 30.0  # the Hub hashes what it serves, 2 GiB/s
END_SECONDS = 15.0
_MNT_DETACH = 2  # mount.h
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Link:
    """A network: seconds before each answer's first byte, bytes a second of one connection and of all together."""

    name: str
    latency: float = 0.0
    per_connection: str = ""
    total: str = ""

    @property
    def arguments(self) -> list[str]:
        shape = [("--latency", str(self.latency)), ("--per-connection", self.per_connection), ("--total", self.total)]
        return [word for option, value in shape if value for word in (option, value)]


LOOPBACK = Link("loopback, unshaped")
SHARED_CDN = Link("30 ms a request, 40 MB/s a connection", latency=0.03, per_connection="40M")
GIGABIT = Link("30 ms a request, 1 Gbit/s in all", latency=0.03, total="125M")


@dataclass(frozen=True)
class Traffic:
    """What the Hub saw: requests by kind, bytes it sent."""

    kinds: Mapping[str, int]
    bytes_sent: int

    @property
    def requests(self) -> int:
        return sum(self.kinds.values())


class Hub:
    """Our local Hub in a process of its own, serving folders as repos."""

    def __init__(self, link: Link, work: Path, repos: Mapping[str, Path]) -> None:
        port_file = work / "endpoint"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "scripts/hub", "serve", *(f"{name}={folder}" for name, folder in repos.items())]
        command += ["--control", "--port-file", str(port_file), "--parent-pid", str(os.getpid()), *link.arguments]
        with open(work / "hub.log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if not eventually(port_file.exists, START_SECONDS, self._process):
            end(self._process)
            raise RunFailed(f"the Hub did not start: {(work / 'hub.log').read_text()[-400:]}")
        self.endpoint = port_file.read_text().strip()
        self._address = urlsplit(self.endpoint).netloc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        end(self._process)

    def url(self, repo: str, path: str) -> str:
        return f"{self.endpoint}/{repo}/resolve/main/{path}"

    def signed(self, repo: str, path: str) -> str:
        """The CDN's URL of an LFS file, as /resolve tells it."""
        return self._ask("HEAD", urlsplit(self.url(repo, path)).path).headers["Location"]

    def clear(self) -> None:
        self._ask("POST", "/-/journal/clear")

    def traffic(self) -> Traffic:
        """Since ``clear``. A body still on its way counts with nothing yet: ask when all is quiet."""
        records = self._records()
        return Traffic(Counter(str(one["kind"]) for one in records), sum(int(one["bytes_sent"]) for one in records))

    def quiet(self, seconds: float = 30.0) -> Traffic:
        """The traffic once all answers are finished: read-ahead may go on after the last read."""

        def finished() -> bool:
            return all(one["finished"] is not None for one in self._records())

        if not eventually(finished, seconds):
            raise RunFailed("answers are still on their way")
        return self.traffic()

    def _records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/-/journal?records=1").body)["records"]
        return found

    def _ask(self, method: str, path: str) -> _Answer:
        connection = http.client.HTTPConnection(self._address, timeout=COMMAND_SECONDS)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return _Answer(answer.read(), {name: value for name, value in answer.getheaders()})  # noqa: C416
        finally:
            connection.close()


@dataclass(frozen=True)
class _Answer:
    body: bytes
    headers: Mapping[str, str]


class HffsMount:
    """``hffs mount`` of a repo; ``seconds`` is what the command took. ``home`` holds cache, sockets and logs."""

    def __init__(self, home: Path, endpoint: str, repo: str, *options: str) -> None:
        self.path = home / f"mnt-{time.monotonic_ns()}"
        self.path.mkdir()
        self.environment = hffs_environment(home, endpoint)
        started = time.perf_counter()
        hffs(self.environment, "mount", repo, str(self.path), *options)
        self.seconds = time.perf_counter() - started
        self.pid = int(self.status()["pid"])
        self._cpu = cpu_seconds(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            hffs(self.environment, "unmount", str(self.path))
        except (RunFailed, subprocess.SubprocessError):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            detach(self.path)
            raise

    def status(self) -> dict[str, Any]:
        """What ``hffs status --json`` says of this mount."""
        found: dict[str, Any] = json.loads(hffs(self.environment, "status", str(self.path), "--json"))["mounts"][0]
        return found

    def cpu(self) -> float:
        """CPU seconds of the daemon since the mount answered."""
        return cpu_seconds(self.pid) - self._cpu

    def memory(self) -> float:
        """The most the daemon has had resident, MiB."""
        return peak_memory(self.pid)


def hffs_environment(home: Path, endpoint: str) -> dict[str, str]:
    """PYTHONPATH goes through, so that a profiler can be started within the daemon."""
    own = {"HFFS_CACHE_DIR": str(home / "blocks"), "HFFS_RUNTIME_DIR": str(home / "run")}
    profiler = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    return {**client_environment(home, endpoint), **own, **profiler}


def client_environment(home: Path, endpoint: str) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def hffs(environment: Mapping[str, str], *arguments: str) -> str:
    """What a successful ``hffs ARGUMENTS`` prints."""
    return program([sys.executable, "-m", "hffs", *arguments], environment=environment, seconds=COMMAND_SECONDS).output


class RcloneMount:
    """``rclone mount`` of a web index, full cache mode, everything else as it comes."""

    def __init__(self, home: Path, index: str, *options: str) -> None:
        self.path = home / f"mnt-{time.monotonic_ns()}"
        self.path.mkdir()
        command = ["rclone", "mount", ":http:", str(self.path), "--http-url", index, "--vfs-cache-mode", "full"]
        command += ["--cache-dir", str(home / "rclone"), "--config", str(home / "none"), "--read-only", *options]
        started = time.perf_counter()
        with open(home / "rclone.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if not eventually(lambda: mounted(self.path), START_SECONDS, self._process):
            end(self._process)
            raise RunFailed(f"rclone did not mount: {(home / 'rclone.log').read_text()[-400:]}")
        self.seconds = time.perf_counter() - started
        self._cpu = cpu_seconds(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        detach(self.path)
        end(self._process)

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid) - self._cpu

    def memory(self) -> float:
        return peak_memory(self._process.pid)


@contextlib.contextmanager
def web_index(targets: Mapping[str, str]) -> Iterator[str]:
    """A page that lists ``targets`` (name → URL) and leads there: what rclone's http remote reads a folder from. LFS
    files lead to the CDN at once, which spares rclone the look-up at the Hub: its best case."""
    page = "".join(f'<a href="{name}">{name}</a>\n' for name in targets).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            target = targets.get(self.path.lstrip("/"))
            if target is not None:
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html")
            body = page if self.path == "/" else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="index")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join(END_SECONDS)
        server.server_close()


@dataclass(frozen=True)
class Ran:
    """A program that did its work: seconds from start to end, CPU seconds, what it printed."""

    seconds: float
    cpu: float
    output: str
    said: dict[str, Any] = field(default_factory=dict)  # what a program of ours reports about itself


def program(
    command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, seconds: float = DOWNLOAD_SECONDS
) -> Ran:
    """Runs a program to its end. Raises RunFailed when it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=seconds,
    )  # fmt: skip
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RunFailed(f"{command[0]} ended with {done.returncode}: {done.stdout[-200:]}{done.stderr[-600:]}")
    return Ran(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


def read(way: str, *arguments: str | Path | int, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a program of ``readers`` reports."""
    ran = program([sys.executable, "-m", "benchmarks.readers", way, *map(str, arguments)], environment=environment)
    found: dict[str, Any] = json.loads(ran.output)
    return found


def curl(url: str, place: Path) -> Ran:
    return program(["curl", "-sfL", "-o", place / "file", url])


def aria2c(url: str, place: Path, connections: int = 8) -> Ran:
    """That many connections from the first MiB on; without -s and -k, -x8 stays at five and waits for 40 MiB."""
    options = [
        f"-x{connections}",
        f"-s{connections}",
        "-k1M",
        "--file-allocation=none",
        "--quiet",
        "--no-conf",
        "-d",
        str(place),
        "-o",
        "file",
    ]
    return program(["aria2c", *options, url])


def hffs_hydrate(endpoint: str, repo: str, place: Path, *options: str) -> Ran:
    """``hffs hydrate`` into a cache of its own."""
    environment = hffs_environment(place, endpoint)
    return program([sys.executable, "-m", "hffs", "hydrate", repo, *options], environment=environment)


def hf_download(endpoint: str, repo: str, place: Path, *names: str) -> Ran:
    command = ["hf", "download", repo, *names, "--local-dir", str(place / "files")]
    environment = client_environment(place, endpoint)
    command[0] = str(Path(sys.executable).parent / "hf")
    return program(command, environment=environment)


def cpu_seconds(pid: int) -> float:
    """User and system time of a living process (proc(5), fields 14 and 15)."""
    words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def peak_memory(pid: int) -> float:
    """The most that a living process has had resident, MiB (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def detach(path: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(path), _MNT_DETACH)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)


def eventually(condition: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Whether the condition comes true in time; no, as soon as the process that should bring it about has ended."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends or (process is not None and process.poll() is not None):
            return False
        time.sleep(0.01)  # between two looks
    return True
