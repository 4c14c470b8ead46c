"""Refused access: each command prints one line with the reason and the remedy, and ends with its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import Hub

from .refusing import Refusals

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}
BAD = {"HF_TOKEN": "hf_expired"}
GOOD = {"HF_TOKEN": "hf_good"}
OTHERS = {"HF_TOKEN": "hf_others"}  # valid, but of an account without access to the private repo
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def repos(hub: Hub) -> None:
    hub.add_repo("acme/open", files=FILES)
    hub.add_repo("acme/gated", files=FILES, gated="manual")
    hub.add_repo("acme/private", files=FILES, private=True).readers = {"alice"}
    hub.add_repo("acme/gone", files=FILES)
    hub.disable("acme/gone")
    hub.tokens["hf_others"] = "bob"


def host(hub: Hub) -> str:
    return hub.endpoint.removeprefix("http://")


def test_a_bad_token_is_told_with_where_it_came_from_even_for_a_public_repo(
    hub: Hub, refusals: Refusals, place: Path
) -> None:
    what = f"{host(hub)} refuses the token: it is wrong or has expired: "
    remedy = "set HF_TOKEN to a good one and start hffs anew, or unset it and log in with `hf auth login`"
    for words in (("mount", "acme/open", place), ("hydrate", "acme/open")):
        hub.journal.clear()
        assert refusals.of(4, *words, **BAD) == what + remedy
        assert len(hub.journal.requests()) == 1, "asked once"
    login = refusals.commands.home / "hf" / "token"
    login.parent.mkdir(exist_ok=True)
    login.write_text("hf_expired")
    assert refusals.of(4, "info", "acme/open") == what + LOG_IN
    mine = place.parent / "mine"
    mine.write_text("hf_expired")
    assert refusals.of(4, "info", "acme/open", "--token-file", mine) == what + f"put a good one into {mine}"
    missing = place.parent / "missing"
    line = refusals.of(4, "mount", "acme/open", place, "--token-file", missing)
    way_out = "mend it, or name another one with --token-file"
    assert line == f"{missing} cannot be read: No such file or directory: {way_out}"


def test_a_gated_repo_names_the_page_to_ask_at(hub: Hub, refusals: Refusals) -> None:
    page = f"ask for access at {hub.endpoint}/acme/gated"
    assert refusals.of(4, "hydrate", "acme/gated").splitlines()[0].endswith(f"is gated: {LOG_IN}, and {page}")
    assert refusals.of(4, "hydrate", "acme/gated", **GOOD).endswith(f"is gated: {page}")


@pytest.mark.parametrize("repo", ["acme/private", "acme/nothing"])
def test_private_and_missing_are_told_alike_for_the_hub_does_not_say(
    repo: str, hub: Hub, refusals: Refusals, place: Path
) -> None:
    for words in (("mount", repo, place), ("ls", repo)):
        line = refusals.of(3, *words)
        assert line.startswith(f"there is no model {repo} on {host(hub)}, or it is private")
        assert line.endswith(f"check the name and the type, or {LOG_IN}")
    line = refusals.of(3, "ls", repo, **OTHERS)
    assert line.endswith("or it is private and the token may not see it: check the name and the type")


def test_a_disabled_repo_is_told_as_such(hub: Hub, refusals: Refusals, place: Path) -> None:
    for words in (("mount", "acme/gone", place), ("info", "acme/gone")):
        line = refusals.of(4, *words)
        assert line == f"model acme/gone has been disabled by the Hub: see {hub.endpoint}/acme/gone"


def test_no_implicit_token_is_sent_where_that_is_switched_off(hub: Hub, refusals: Refusals) -> None:
    refusals.of(3, "info", "acme/private", **GOOD, HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert not any(record.authorized for record in hub.journal.requests())
    old = {"HUGGING_FACE_HUB_TOKEN": "hf_good"}
    refusals.commands.environment.update(old)
    assert "private" in refusals.commands.expect("info", "acme/private")


def test_a_token_path_of_the_users_own_is_heeded(hub: Hub, refusals: Refusals, place: Path) -> None:
    mine = place.parent / "mine"
    mine.write_text("hf_good\n")
    refusals.commands.environment["HF_TOKEN_PATH"] = str(mine)
    assert "acme/private" in refusals.commands.expect("info", "acme/private")
