"""A token in a mount's life: replaced, refused, good again; and that only the Hub ever receives it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import CHECKOUT, COMMAND_SECONDS, Commands, Mounted, eventually

GIT = {f"{name}.json": f'{{"{name}": 1}}'.encode() for name in "abcdef"}
LFS = {f"{name}.safetensors": name.encode() * 1000 for name in "abcdef"}
FILES: dict[str, bytes | Path | Synthetic] = {**GIT, **LFS}
TOKEN = "hf_kQ7recognisableZw3"


@pytest.fixture
def token_file(hub: Hub, tmp_path: Path) -> Path:
    """A token file of an account with access to acme/private."""
    hub.add_repo("acme/private", files=FILES, private=True)
    hub.tokens[TOKEN] = "alice"
    hub.repo("acme/private").grant("alice")
    place = tmp_path / "token"
    place.write_text(TOKEN + "\n")
    return place


def replace(place: Path, text: str) -> None:
    """Replaces the file by another one of the same name, as token rotation does."""
    fresh = place.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(place)


def refused(mounted: Mounted, path: str) -> None:
    with pytest.raises(OSError) as caught:
        (mounted / path).read_bytes()
    assert caught.value.errno == errno.EACCES


def asked(hub: Hub) -> list[int | None]:
    return [record.status for record in hub.journal.requests(origin="api")]


def test_a_token_that_is_revoked_costs_one_request_and_another_is_used_at_once(
    hub: Hub, mount: Mount, token_file: Path
) -> None:
    mounted = mount("acme/private", "--prefetch", "none", "--token-file", str(token_file))
    assert (mounted / "a.json").read_bytes() == GIT["a.json"]
    assert (mounted / "a.safetensors").read_bytes() == LFS["a.safetensors"]
    del hub.tokens[TOKEN]
    hub.journal.clear()
    for path in ("b.json", "b.safetensors", "c.json", "c.safetensors") * 2:
        refused(mounted, path)
    assert asked(hub) == [401]
    status = mounted.status()
    assert status["state"] == "degraded"
    assert status["hub"]["refused"].endswith("refuses the token: it is wrong or has expired")
    assert status["hub"]["remedy"] == f"put a good one into {token_file}"
    shown = mounted.commands.expect("status", str(mounted.path))
    assert f"it is wrong or has expired: put a good one into {token_file}" in shown
    assert (mounted / "a.safetensors").read_bytes() == LFS["a.safetensors"], "what is local is served"

    hub.tokens["hf_fresh"] = "alice"
    replace(token_file, "hf_fresh")
    assert (mounted / "b.json").read_bytes() == GIT["b.json"]
    assert (mounted / "c.safetensors").read_bytes() == LFS["c.safetensors"]
    assert 401 not in asked(hub)[1:]
    status = mounted.status()
    assert (status["state"], status["hub"]["refused"], status["hub"]["remedy"]) == ("serving", "", "")


def test_a_token_that_is_replaced_in_time_is_not_noticed(hub: Hub, mount: Mount, token_file: Path) -> None:
    mounted = mount("acme/private", "--prefetch", "none", "--token-file", str(token_file))
    assert (mounted / "a.json").read_bytes() == GIT["a.json"]
    hub.tokens["hf_fresh"] = hub.tokens.pop(TOKEN)
    replace(token_file, "hf_fresh")
    hub.journal.clear()
    assert (mounted / "b.safetensors").read_bytes() == LFS["b.safetensors"]
    assert asked(hub) == [302]


def test_a_hydration_waits_for_another_token_and_goes_on_with_it(
    hub: Hub, mount: Mount, token_file: Path, commands: Commands
) -> None:
    mounted = mount("acme/private", "--prefetch", "none", "--workers", "1", "--token-file", str(token_file))
    assert (mounted / "a.json").read_bytes() == GIT["a.json"]
    del hub.tokens[TOKEN]
    hub.journal.clear()
    hydrating = subprocess.Popen(
        [sys.executable, "-m", "hffs", "hydrate", str(mounted.path)],
        cwd=CHECKOUT, env=commands.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert eventually(lambda: bool(mounted.status()["hub"]["refused"]), COMMAND_SECONDS)
        assert eventually(lambda: mounted.status()["workers"]["active"] == 0, COMMAND_SECONDS)
        refused(mounted, "b.json")
        assert asked(hub) == [401], "neither what waits nor a reader asks again"
        status = mounted.status()
        assert status["hydration"]["state"] == "running"
        assert "refuses the token" in status["workers"]["why"]
        assert hydrating.stderr is not None
        warning = next(line for line in hydrating.stderr if "waiting: " in line)  # the command polls now and then
        hub.tokens["hf_fresh"] = "alice"
        replace(token_file, "hf_fresh")
        outputs, worry = hydrating.communicate(timeout=COMMAND_SECONDS)
    finally:
        hydrating.kill()
        hydrating.communicate(timeout=10)
    assert hydrating.returncode == 0, worry
    assert "12 files" in outputs
    assert warning.startswith("hffs: waiting: ")
    assert "waiting: " not in worry
    assert asked(hub).count(401) == 1
    assert mounted.status()["bytes_local"] == sum(len(data) for data in (*GIT.values(), *LFS.values()))


def test_a_hydration_without_a_mount_is_refused_at_once(hub: Hub, commands: Commands, token_file: Path) -> None:
    token_file.write_text("hf_bad")
    done = commands.run("hydrate", "acme/private", "--token-file", str(token_file))
    assert done.returncode == 4
    assert f"refuses the token: it is wrong or has expired: put a good one into {token_file}" in done.stderr


@pytest.fixture
def secret(hub: Hub, token_file: Path, commands: Commands) -> Iterator[Commands]:
    """Commands that have the token from the environment, as most containers do."""
    commands.environment["HF_TOKEN"] = TOKEN
    yield commands
    del commands.environment["HF_TOKEN"]


@pytest.mark.allow_warnings  # a worker is killed
def test_neither_token_nor_signature_is_left_anywhere(hub: Hub, mount: Mount, secret: Commands) -> None:
    mounted = mount("acme/private", "--prefetch", "small", "--log-level", "debug", "--debug")
    outputs = [str(mounted.status())]
    # Addresses with signatures, in all the ways that errors are made of them.
    signed = "?X-Amz-Signature=5ecretamz&Signature=5ecretsig&X-Goog-Signature=5ecretgoog"
    hub.faults.add(Match(kind="resolve"), faults.redirect(f"http://127.0.0.1:9/x{signed}"), count=1)
    hub.faults.add(Match(kind="cdn"), faults.status(500), count=1)
    hub.faults.add(Match(kind="cdn"), faults.redirect(f"http://127.0.0.1:9/y{signed}"), count=1)
    for path, data in LFS.items():
        assert (mounted / path).read_bytes() == data
    hub.expire_urls()
    outputs.append(secret.expect("hydrate", str(mounted.path), "--json", "--force"))
    first = mounted.pid
    assert mounted.status()["last_errors"], "it was not for nothing"
    os.kill(first, signal.SIGSEGV)
    assert eventually(lambda: mounted.status()["pid"] != first and mounted.status()["state"] == "serving", 30)
    status = mounted.status()
    mounted.pid = int(status["pid"])
    hub.expire_urls()
    outputs.append(secret.expect("hydrate", str(mounted.path), "--force"))  # the next worker has the token too
    outputs += [str(status), secret.expect("status"), secret.expect("status", "--json", str(mounted.path))]
    for words in (
        ("--debug", "info", "acme/nothing"),
        ("info", "acme/private", "--debug"),
        ("ls", "acme/private", "--debug"),
        ("mount", "acme/nothing", str(mounted.path.parent), "--debug"),
    ):
        done = secret.run(*words)
        outputs += [done.stdout, done.stderr]

    signatures = {value for record in hub.journal.requests("cdn") for value in record.query.values() if len(value) > 20}
    assert signatures, "nothing was signed"
    secrets = {TOKEN, "5ecretamz", "5ecretsig", "5ecretgoog", "Signature=", *signatures}
    for pid in (mounted.pid, int(status["supervisor"]["pid"])):
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()
            assert shown
            assert TOKEN.encode() not in shown, f"{name} of {pid}"
    places = [secret.home / name for name in ("blocks", "run", "hf")]
    for place in places:
        for file in place.rglob("*"):
            if file.is_file():
                outputs.append(file.read_bytes().decode("latin-1"))
    assert any("event=verified" in text for text in outputs), "the log is among them"
    for text in outputs:
        found = [word for word in secrets if word in text]
        assert not found, text[max(0, text.index(found[0]) - 200) :][:400]
    assert not any(record.authorized for record in hub.journal.requests("cdn"))
    assert any(record.token == TOKEN for record in hub.journal.requests(origin="api"))


def test_a_restart_hands_the_token_on_without_exposing_it(mount: Mount, secret: Commands) -> None:
    mounted = mount("acme/private", "--prefetch", "none")
    first = mounted.pid
    for name in ("a", "b"):  # the second time by a supervisor that heard the token from one like it
        before = mounted.pid
        secret.expect("restart", str(mounted.path))
        assert eventually(lambda before=before: mounted.status()["pid"] != before, 30)
        status = mounted.status()
        mounted.pid = int(status["pid"])
        assert (mounted / f"{name}.safetensors").read_bytes() == LFS[f"{name}.safetensors"]
        for pid in (mounted.pid, int(status["supervisor"]["pid"])):
            assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert mounted.pid != first


def test_a_login_in_a_mounts_life_is_taken(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.add_repo("acme/gated", files=FILES, gated=True).grant("alice")
    hub.tokens[TOKEN] = "alice"
    mounted = mount("acme/gated", "--prefetch", "none")
    refused(mounted, "a.json")
    assert "hf auth login" in mounted.status()["hub"]["remedy"]
    login = commands.home / "hf" / "token"  # the file that `hf auth login` writes
    login.parent.mkdir(exist_ok=True)
    login.write_text(TOKEN)
    assert (mounted / "a.json").read_bytes() == GIT["a.json"]
    assert json.loads(commands.expect("status", "--json"))["mounts"][0]["hub"]["refused"] == ""
