"""The control socket of a real mount matches docs/openapi.yaml, also while no server answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import openapi_spec_validator
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hffs.control import client
from hffs.daemon.events import BACKLOG
from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import CHECKOUT, Commands, Mounted, eventually, forget_pages, python
from .test_kernel_waiting import started, waiting

DOCUMENT = yaml.safe_load((CHECKOUT / "docs/openapi.yaml").read_text())
MODEL = Synthetic(8 << 20, seed=91)
BLOCK = 262144
ODD = "odd ü#1%.bin"
FILES: dict[str, bytes | Path | Synthetic] = {
    "model.bin": MODEL,
    "config.json": b"{}" * 100,
    "sub/blocks/blocks": Synthetic(2 * BLOCK + 1, seed=92),
    f"sub/{ODD}": Synthetic(3000, seed=93),
    "same.json": b"{}" * 100,
    "empty": b"",
}
NOTHING_AHEAD = ("--prefetch", "none", "--fetch-size", "256K")


class Socket:
    """The socket of a mount; every answer is checked against the document."""

    def __init__(self, mounted: Mounted) -> None:
        name = hashlib.sha256(os.fsencode(mounted.path)).hexdigest()[:16] + ".sock"
        self.path = str(mounted.commands.runtime / name)
        self.asked: set[tuple[str, str]] = set()

    def raw(self, method: str, target: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        head = f"{method} {target} HTTP/1.1\r\nHost: hffs\r\nContent-Length: {len(body or b'')}\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(self.path)
            with suppress(BrokenPipeError, ConnectionResetError):  # what is refused is not read to its end
                connection.sendall(head.encode() + (body or b""))
            with connection.makefile("rb") as stream:
                first, _, payload = stream.read().partition(b"\r\n\r\n")
        status, *headers = first.decode().split("\r\n")
        fields = dict(each.lower().split(": ", 1) for each in headers)
        assert (len(payload), fields["connection"]) == (int(fields["content-length"]), "close")
        return int(status.split()[1]), fields["content-type"], payload

    def ask(self, method: str, target: str, body: Any = None, status: int = 200) -> Any:
        found, kind, payload = self.raw(method, target, None if body is None else json.dumps(body).encode())
        assert found == status, payload
        path, operation = documented(method, target)
        answers = operation["responses"]
        described = answers.get(str(status), answers["default"])
        if set(described) == {"$ref"}:
            described = DOCUMENT["components"]["responses"]["Error"]
        if status == 200:
            self.asked.add((method, path))
        (media,) = described["content"]
        assert kind.partition(";")[0] == media
        if media != "application/json":
            return payload.decode()
        value = json.loads(payload)
        check(value, described["content"][media]["schema"])
        return value

    def blocks(self, path: str) -> list[tuple[str, int, int]]:
        found = self.ask("GET", f"/v1/files/{quote(path)}/blocks")
        assert found["block_size"] == BLOCK
        runs = [(run["state"], run["start"], run["count"]) for run in found["runs"]]
        at = 0
        for _, start, count in runs:
            assert start == at, "in order, without a gap"
            at += count
        assert at == -(-found["size"] // BLOCK)
        return runs


def check(value: Any, schema: dict[str, Any]) -> None:
    """Checks a value against a schema of the document; undocumented keys are refused."""
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)
    for name in ("Status", "FileList", "BlockMap", "Job", "LetGo", "Pinned", "Refreshed", "Error"):
        if schema == {"$ref": f"#/components/schemas/{name}"}:
            assert set(value) <= set(DOCUMENT["components"]["schemas"][name]["properties"]), "all keys are documented"


def documented(method: str, target: str) -> tuple[str, dict[str, Any]]:
    """Returns the document's path for a target and its operation; paths without a variable take precedence."""
    path = target.partition("?")[0]
    for pattern in sorted(DOCUMENT["paths"], key=lambda each: "{" in each):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(pattern)), path):
            found = DOCUMENT["paths"][pattern].get(method.lower())
            return pattern, found or next(iter(DOCUMENT["paths"][pattern].values()))
    return "", DOCUMENT["paths"]["/v1/status"]["get"]  # an error is one everywhere


@pytest.fixture
def mounted(hub: Hub, mount: Mount) -> Mounted:
    hub.add_repo("acme/big", files=FILES)
    return mount("acme/big", *NOTHING_AHEAD)


def test_the_openapi_document_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_every_answer_of_a_mount_matches_the_openapi_document(mounted: Mounted) -> None:
    control = Socket(mounted)
    assert control.ask("GET", "/healthz") == {"state": "serving"}
    assert "event=mounted" in Path(control.ask("GET", "/v1/status")["log"]).read_text()
    assert control.ask("GET", "/v1/jobs") == {"jobs": []}
    job = control.ask("POST", "/v1/hydrate", {"path": "sub", "include": ["*"]})
    assert eventually(lambda: control.ask("GET", f"/v1/jobs/{job['id']}")["state"] == "done", 60)
    (listed,) = control.ask("GET", "/v1/jobs")["jobs"]
    assert (listed["id"], listed["ended"], listed["finished"]) == (job["id"], 2, [])
    assert control.ask("DELETE", f"/v1/jobs/{job['id']}")["state"] == "done"
    wish = {"path": "sub", "require": ["sub/nothing"], "fix": True}
    verification = control.ask("POST", "/v1/verify", wish)["id"]
    assert eventually(lambda: control.ask("GET", f"/v1/jobs/{verification}")["state"] == "failed", 60)
    assert control.ask("GET", f"/v1/jobs/{verification}")["findings"][0]["kind"] == "missing"
    with (mounted / "model.bin").open("rb", buffering=0) as file:
        assert file.read(10) == MODEL.read(0, 10)
        status = control.ask("GET", "/v1/status")
        assert [each["path"] for each in status["open_files"]] == ["model.bin"]
    assert [each["path"] for each in control.ask("GET", "/v1/files?path=sub/blocks")["files"]] == ["sub/blocks/blocks"]
    assert control.ask("POST", "/v1/pin", {"path": "sub", "pinned": True})["changed"] == 2
    assert control.ask("POST", "/v1/evict", {"path": "sub"})["stay"] == {"pinned": 2}
    assert control.ask("POST", "/v1/refresh")["moved"] is False
    assert control.ask("POST", "/v1/bandwidth", {"bytes_per_s": 1000_000}) == {"bytes_per_s": 1000_000}
    assert control.ask("POST", "/v1/bandwidth", {"bytes_per_s": None}) == {"bytes_per_s": None}
    control.blocks("model.bin")
    control.ask("GET", "/metrics")
    for method, target, body, code in (
        ("GET", "/v1/nothing", None, 404),
        ("PUT", "/v1/status", None, 405),
        ("GET", "/v1/files/nothing/blocks", None, 404),
        ("GET", "/v1/files/sub/blocks", None, 404),
        ("GET", "/v1/jobs/nothing", None, 404),
        ("POST", "/v1/evict", {"path": "nothing"}, 404),
        ("POST", "/v1/evict", {"path": 1}, 400),
        ("POST", "/v1/evict", {"pth": "sub"}, 400),
        ("POST", "/v1/pin", {"pinned": "yes"}, 400),
        ("POST", "/v1/pin", ["sub"], 400),
        ("POST", "/v1/hydrate", {"include": "*"}, 400),
        ("POST", "/v1/verify", {"fix": 1}, 400),
        ("POST", "/v1/bandwidth", {"bytes_per_s": -1}, 400),
        ("POST", "/v1/hydrate", {"include": ["x" * 70000]}, 413),
    ):
        control.ask(method, target, body, status=code)
    events = client.events(control.path)
    control.ask("POST", "/v1/restart")
    every = list(events)  # to the end of the worker that is replaced
    for each in every:
        check(each, DOCUMENT["components"]["schemas"]["Event"])
    assert every[-1]["event"] == "left"
    control.asked.add(("GET", "/v1/events"))
    assert eventually(lambda: mounted.status()["supervisor"]["restarts"] == 1, 30)
    mounted.pid = mounted.status()["pid"]
    control.ask("POST", "/v1/unmount", {"lazy": False})
    assert eventually(lambda: not mounted.is_mounted(), 30)
    documented = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert control.asked == {(method, path) for method, path in documented if method != "PARAMETERS"}


def test_blocks_in_flight_and_queued_and_local_are_distinguished(hub: Hub, mounted: Mounted) -> None:
    control = Socket(mounted)
    assert control.blocks("model.bin") == [("absent", 0, 32)]
    assert control.blocks("empty") == []
    assert control.blocks("sub/blocks/blocks") == [("absent", 0, 3)]
    assert (mounted / "sub" / ODD).read_bytes() == FILES[f"sub/{ODD}"].read(0, 3000)  # type: ignore[union-attr,call-arg]
    assert control.blocks(f"sub/{ODD}") == [("local", 0, 1)]
    with (mounted / "model.bin").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 10, 4 * BLOCK) == MODEL.read(4 * BLOCK, 10)
        assert ("local", 4, 1) in [(state, start, 1) for state, start, _ in control.blocks("model.bin")]
        hub.faults.add(Match(kind="cdn", file="model.bin"), faults.hold())
        job = control.ask("POST", "/v1/hydrate", {"path": "model.bin"})
        assert eventually(lambda: {"in_flight", "queued"} <= {state for state, *_ in control.blocks("model.bin")}, 60)
        states = dict.fromkeys(state for state, *_ in control.blocks("model.bin"))
        assert "absent" not in states
        assert "local" in states
        hub.faults.clear()
        control.ask("DELETE", f"/v1/jobs/{job['id']}")
    assert (mounted / "model.bin").read_bytes() == MODEL.read(0, MODEL.size)
    assert control.blocks("model.bin") == [("local", 0, 32)]


def test_evicted_files_are_fetched_again_and_pinned_or_shared_ones_stay(hub: Hub, mounted: Mounted) -> None:
    control = Socket(mounted)
    control.ask("POST", "/v1/hydrate")
    assert eventually(lambda: control.ask("GET", "/v1/status")["hydration"]["state"] == "done", 60)
    before = control.ask("GET", "/v1/status")
    assert before["bytes_local"] == before["bytes_total"]

    assert control.ask("POST", "/v1/evict", {"path": "config.json"})["stay"] == {"shared": 1}
    let = control.ask("POST", "/v1/evict", {"path": "model.bin"})
    assert (let["blobs"], let["stay"], let["complete"]) == (1, {}, True)
    assert let["bytes_freed"] >= MODEL.size
    assert control.blocks("model.bin") == [("absent", 0, 32)]
    after = control.ask("GET", "/v1/status")
    assert after["bytes_local"] == before["bytes_local"] - MODEL.size
    assert after["cache"]["bytes"] <= before["cache"]["bytes"] - MODEL.size
    forget_pages(mounted / "model.bin")
    hub.journal.clear()
    assert (mounted / "model.bin").read_bytes() == MODEL.read(0, MODEL.size)
    assert hub.journal.bytes_sent("cdn", file="model.bin") == MODEL.size

    pinned = control.ask("POST", "/v1/pin", {"path": "model.bin"})
    assert (pinned["blobs"], pinned["changed"], pinned["absent"]) == (1, 1, 0)
    assert control.ask("POST", "/v1/pin", {"path": "model.bin"})["changed"] == 0
    let = control.ask("POST", "/v1/evict", {"shared": True})
    assert let["stay"] == {"pinned": 1}
    assert control.ask("GET", "/v1/status")["bytes_local"] == MODEL.size
    pinned = control.ask("POST", "/v1/pin", {"pinned": False})
    assert (pinned["blobs"], pinned["changed"], pinned["absent"]) == (1, 1, 4)
    control.ask("POST", "/v1/evict")
    assert control.ask("GET", "/v1/status")["bytes_local"] == 0


def test_a_file_may_be_evicted_while_it_is_read(mounted: Mounted) -> None:
    control = Socket(mounted)
    with (mounted / "model.bin").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), BLOCK, 0) == MODEL.read(0, BLOCK)
        let = control.ask("POST", "/v1/evict", {"path": "model.bin"})
        assert let["bytes_freed"] >= BLOCK
        assert control.blocks("model.bin")[0][0] != "local"
        forget_pages(mounted / "model.bin")
        assert os.pread(file.fileno(), BLOCK, 0) == MODEL.read(0, BLOCK)
        assert control.blocks("model.bin")[0][0] == "local"


def test_a_refresh_reports_a_moved_branch_and_changes_nothing(hub: Hub, mounted: Mounted) -> None:
    control = Socket(mounted)
    before = control.ask("POST", "/v1/refresh")
    assert (before["moved"], before["newest"], before["revision"]) == (False, before["commit"], "main")
    hub.repo("acme/big").commit({"config.json": b"newer"})
    moved = control.ask("POST", "/v1/refresh")
    assert moved["moved"] is True
    assert moved["newest"] == hub.repo("acme/big").commit_of("main")
    assert moved["commit"] == before["commit"] == control.ask("GET", "/v1/status")["commit"]
    assert (mounted / "config.json").read_bytes() == FILES["config.json"]
    hub.down()
    output = control.ask("POST", "/v1/refresh", status=503)
    assert output["exit_code"] == 5
    hub.up()


def test_metrics_are_the_status_in_prometheus_format(mounted: Mounted) -> None:
    control = Socket(mounted)
    (mounted / "model.bin").read_bytes()
    status = control.ask("GET", "/v1/status")
    text = control.ask("GET", "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (each.name, *each.labels.values()): each.value for family in families.values() for each in family.samples
    }
    for name, value in {
        "hffs_fetched_bytes_total": status["bytes_fetched"],
        "hffs_local_bytes": status["bytes_local"],
        "hffs_size_bytes": status["bytes_total"],
        "hffs_files": status["files"],
        "hffs_requests_total": status["requests"],
        "hffs_cache_bytes": status["cache"]["bytes"],
        "hffs_waiting_reads": 0,
        "hffs_workers_limit": status["workers"]["limit"],
        "hffs_supervised": 1,
        "hffs_restarts_total": 0,
        "hffs_job_running": 0,
    }.items():
        assert samples[(name,)] == value, name
    assert samples["hffs_state", "serving"] == 1
    assert sum(value for key, value in samples.items() if key[0] == "hffs_state") == 1
    assert families["hffs_mount_info"].samples[0].labels["repo"] == "acme/big"
    assert "hffs_cache_limit_bytes" not in families, "there is none"
    assert samples[("process_resident_memory_bytes",)] > 0
    assert [name for name in FILES if name in text and name != "empty"] == []
    assert all(name.startswith(("hffs_", "process_")) for name in families)
    assert all(family.documentation for family in families.values())
    measures = ("_bytes", "_seconds", "_files", "_reads", "_workers", "_per_second", "_info")
    switches = ("_supervised", "_running", "_refused")
    gauges = [name for name, each in families.items() if each.type == "gauge" and name.startswith("hffs_")]
    assert [name for name in gauges if not name.endswith((*measures, *switches, "_limit", "_state"))] == []


@pytest.mark.kernel
def test_every_route_answers_while_a_thousand_reads_wait_and_no_server_answers(
    hub: Hub, mount: Mount, tmp_path: Path
) -> None:
    big = Synthetic(64 << 20, seed=94).write(tmp_path)
    hub.add_repo("acme/huge", files={"model.bin": big})
    mounted = mount("acme/huge", "--prefetch", "none")
    control = Socket(mounted)
    hub.faults.add(Match(), faults.hold())
    readers = [python("reading", "at_once", mounted / "model.bin", big, 1 + 100 * n, 100, 64 << 10) for n in range(10)]
    with started(*readers), ExitStack() as waits:
        waiting(mounted, 1000)
        requests = len(hub.journal.requests())
        took = []
        for _ in range(10):
            began = time.monotonic()
            _, _, payload = control.raw("GET", "/v1/status")
            took.append(time.monotonic() - began)
            assert len(json.loads(payload)["waiting_reads"]) >= 1000
        asking = waits.enter_context(socket.socket(socket.AF_UNIX))
        asking.connect(control.path)
        asking.sendall(b"POST /v1/refresh HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert eventually(lambda: len(hub.journal.requests()) > requests, 30)
        control.ask("POST", "/v1/refresh", status=409)
        job = control.ask("POST", "/v1/hydrate")
        assert "hffs_waiting_reads 1000.0" in control.ask("GET", "/metrics")
        assert {state for state, *_ in control.blocks("model.bin")} <= {"in_flight", "queued", "absent"}
        assert control.ask("POST", "/v1/pin", {"path": ""})["blobs"] == 0
        control.ask("GET", "/v1/files")
        control.ask("DELETE", f"/v1/jobs/{job['id']}")
        events = client.events(control.path, ["progress"])
        assert next(each for each in events if each["event"] == "progress")["waiting_reads"] >= 1000
        events.close()
        assert hub.journal.bytes_sent("cdn") == 0, "none of it waited for a server"
        print(f"status behind 1000 reads: median {sorted(took)[5] * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
    hub.faults.clear()


def test_a_hundred_followers_that_never_read_do_not_affect_readers(hub: Hub, mounted: Mounted) -> None:
    control = Socket(mounted)
    with ExitStack() as deaf:
        for _ in range(100):
            each = deaf.enter_context(socket.socket(socket.AF_UNIX))
            each.settimeout(20)
            each.connect(control.path)
            each.sendall(b"GET /v1/events HTTP/1.1\r\n\r\n")
            assert each.recv(15) == b"HTTP/1.1 200 OK"
        events = client.events(control.path)
        for _ in range(BACKLOG + 50):  # each is an event that no follower reads
            control.ask("POST", "/v1/refresh")
        assert sum(next(events)["event"] == "refreshed" for _ in range(BACKLOG + 50)) >= BACKLOG
        hub.journal.clear()
        assert (mounted / "model.bin").read_bytes() == MODEL.read(0, MODEL.size)
        assert hub.journal.bytes_sent("cdn") == MODEL.size, "each byte once"
        assert control.ask("GET", "/v1/status")["waiting_reads"] == []
        events.close()


def test_a_slow_client_delays_no_other_answer(mounted: Mounted) -> None:
    control = Socket(mounted)
    with ExitStack() as slow:
        for number in range(60):
            each = slow.enter_context(socket.socket(socket.AF_UNIX))
            each.connect(control.path)
            each.sendall(b"GET /v1/status HTTP/1.1\r\nX: "[: number % 28])
        assert control.ask("GET", "/healthz") == {"state": "serving"}
        assert (mounted / "config.json").read_bytes() == FILES["config.json"]


def test_no_answer_contains_a_token_or_a_signature(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.add_repo("acme/private", files=FILES, private=True)
    commands.environment["HF_TOKEN"] = token = "hf_good"
    mounted = mount("acme/private", "--log-level", "debug", "--prefetch", "none")
    control = Socket(mounted)
    events = client.events(control.path)
    (mounted / "config.json").read_bytes()
    hub.faults.add(Match(kind="cdn"), faults.status(403, "no"))  # whose message could contain the address
    job = control.ask("POST", "/v1/hydrate")
    assert eventually(lambda: bool(control.ask("GET", "/v1/status")["last_errors"]), 60)
    output = [json.dumps(control.ask("GET", target)) for target in ("/v1/status", "/v1/files", "/v1/jobs", "/metrics")]
    control.ask("DELETE", f"/v1/jobs/{job['id']}")
    while '"hydration-cancelled"' not in output[-1]:
        output.append(json.dumps(next(events)))
    events.close()
    everything = "\n".join([*output, mounted.log()])
    for secret in (token, "Signature=", "Bearer"):
        assert secret not in everything
    hub.faults.clear()


@pytest.mark.allow_warnings("a route that is left behind is told")
def test_a_hanging_refresh_does_not_delay_an_unmount(hub: Hub, mounted: Mounted) -> None:
    control = Socket(mounted)
    hub.faults.add(Match(), faults.hold())
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(control.path)
        before = len(hub.journal.requests())
        asking.sendall(b"POST /v1/refresh HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert eventually(lambda: len(hub.journal.requests()) > before, 30)
        mounted.unmount()
    hub.faults.clear()
