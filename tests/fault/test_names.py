"""Names that mean nothing, or nothing to this user: told in one line, by every command that takes a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hffs.cli import main
from tests.hub import Hub, Repo
from tests.mount.conftest import Mount
from tests.mount.mounted import Commands, eventually

from .refusing import Refusals, error_line

LOOKING = ("ls", "info", "du")
FILES = {"config.json": b"{}", "sub/a.txt": b"a"}
GATED = {"config.json": b"[]", "sub/a.txt": b"b"}


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> Repo:
    hub.add_repo("acme/secret", files=FILES, private=True)
    hub.add_repo("acme/gated", files=GATED, gated=True)
    hub.add_repo("acme/rows", type="dataset", files=FILES)
    return hub.add_repo("acme/tiny", files=FILES)


@pytest.fixture(params=("mount", *LOOKING))
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(command: str, repo: str, place: Path) -> tuple[str | Path, ...]:
    """The words of a command about a repo."""
    return (command, repo, place) if command == "mount" else (command, repo)


@pytest.mark.parametrize(
    ("command", "repo"),
    [
        ("mount", "acme/nope"),
        ("mount", "acme/secret"),
        ("ls", "datasets/acme/tiny"),
        ("info", "nope"),
        ("du", "acme/nope"),
    ],
)
def test_a_repo_that_is_not_there_or_private_is_told_with_the_ways_out(
    refusals: Refusals, command: str, place: Path, repo: str
) -> None:
    line = refusals.of(3, *asked(command, repo, place))
    assert repo.removeprefix("datasets/") in line
    assert "check the name" in line
    assert "hf auth login" in line, "without a token, a missing login may be the cause"


def test_with_a_token_the_message_does_not_suggest_a_login(refusals: Refusals, place: Path) -> None:
    line = refusals.of(3, "mount", "acme/nope", place, HF_TOKEN="hf_good")
    assert "acme/nope" in line
    assert "check the name" in line
    assert "hf auth login" not in line


def test_a_private_repo_is_mounted_with_access(mount: Mount, commands: Commands) -> None:
    commands.environment["HF_TOKEN"] = "hf_good"
    assert (mount("acme/secret") / "config.json").read_bytes() == b"{}"


def test_a_gated_repo_mounts_without_access_and_is_readable_once_granted(
    hub: Hub, commands: Commands, mount: Mount, tmp_path: Path
) -> None:
    mounted = mount("acme/tiny")
    mounted.unmount()
    page = f"{hub.endpoint}/acme/gated"
    line = error_line(commands.run("mount", "acme/gated", str(mounted.path)).stderr)
    assert line.startswith("model acme/gated is gated, its files cannot be read yet: log in with `hf auth login`")
    assert line.endswith(f"ask for access at {page}")
    commands.expect("unmount", str(mounted.path))
    token = tmp_path / "token"
    token.write_text("hf_good")
    done = commands.run("mount", "acme/gated", str(mounted.path), "--token-file", str(token))
    assert "acme/gated is mounted" in done.stdout
    assert error_line(done.stderr).endswith(f"its files cannot be read yet: ask for access at {page}")
    assert hub.journal.requests("resolve-cache", repo="acme/gated") == [], "nothing was tried in the background"
    with pytest.raises(PermissionError):
        (mounted / "config.json").read_bytes()
    hub.repo("acme/gated").grant("alice")
    assert eventually(lambda: can_read(mounted / "config.json"), 20)


def can_read(path: Path) -> bool:
    try:
        return path.read_bytes() == GATED[path.name]
    except PermissionError:
        return False


def test_a_gated_repo_is_mounted_with_access(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.repo("acme/gated").grant("alice")
    commands.environment["HF_TOKEN"] = "hf_good"
    assert (mount("acme/gated") / "config.json").read_bytes() == b"[]"


def test_a_gated_repo_may_be_looked_at_by_anybody(commands: Commands) -> None:
    assert "config.json" in commands.expect("ls", "acme/gated")
    assert "gated" in commands.expect("info", "acme/gated")


def test_a_disabled_repo_is_told_as_such(hub: Hub, refusals: Refusals, command: str, place: Path) -> None:
    hub.disable("acme/tiny")
    line = refusals.of(4, *asked(command, "acme/tiny", place))
    assert "disabled" in line
    assert f"{hub.endpoint}/acme/tiny" in line


def test_a_bad_token_is_told_as_such_even_for_a_public_repo(refusals: Refusals, command: str, place: Path) -> None:
    line = refusals.of(4, *asked(command, "acme/tiny", place), HF_TOKEN="hf_bad")
    assert "token" in line
    assert "wrong or has expired" in line
    assert "hf_bad" not in line


def test_a_token_file_that_cannot_be_read_is_named(refusals: Refusals, place: Path) -> None:
    line = refusals.of(4, "mount", "acme/tiny", place, "--token-file", "/nope/token")
    assert "/nope/token cannot be read" in line
    assert "another one with --token-file" in line


def test_an_unknown_revision_is_named(refusals: Refusals, command: str, place: Path) -> None:
    line = refusals.of(3, *asked(command, "acme/tiny@nope", place))
    assert "acme/tiny has no revision 'nope'" in line


@pytest.mark.parametrize(
    ("command", "repo"),
    [
        ("mount", "acme/tiny/nope"),
        ("mount", "acme/tiny/config.json/nope"),
        ("ls", "acme/tiny/sub/nope"),
        ("info", "acme/tiny/nope"),
        ("du", "acme/tiny/nope"),
    ],
)
def test_a_path_that_is_not_in_the_repo_is_named_with_the_command_that_lists_it(
    refusals: Refusals, command: str, place: Path, repo: str
) -> None:
    line = refusals.of(3, *asked(command, repo, place))
    assert repr(repo.removeprefix("acme/tiny/")) in line
    assert line.endswith("hffs ls acme/tiny")


@pytest.mark.parametrize("command", ["mount", "ls"])
def test_the_command_that_lists_is_right_for_datasets_and_revisions_too(
    hub: Hub, refusals: Refusals, command: str, place: Path
) -> None:
    rows = hub.repo("acme/rows", "dataset")
    rows.tag("v1", rows.commit_of("main"))
    line = refusals.of(3, *asked(command, "datasets/acme/rows@v1/nope", place))
    assert line.endswith("hffs ls datasets/acme/rows@v1")


def test_a_file_is_no_folder_to_mount_and_the_line_says_that_it_is_a_file(refusals: Refusals, place: Path) -> None:
    line = refusals.of(3, "mount", "acme/tiny/sub/a.txt", place)
    assert "'sub/a.txt'" in line
    assert "is a file" in line
    assert "acme/tiny/sub" in line, "the folder it lies in can be mounted"


def test_a_file_may_be_looked_at_by_itself(commands: Commands) -> None:
    assert commands.expect("ls", "acme/tiny/sub/a.txt").split()[-1] == "a.txt"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("mount", ["../x", "kernels/a/b"]),
        ("ls", ["", " ", "/absolute", "~", "hf://", "dataset/acme/rows"]),
        ("ls", ["acme/ti ny", "acme//tiny", "acme/..", "acme/--x", "acme/tiny.git", "acme/t\nx", "a" * 200 + "/b"]),
        ("info", ["https://huggingface.co/acme/tiny", "huggingface.co/acme/tiny"]),
        ("du", ["acme/tiny@", "acme/tiny@a b", "acme/tiny@../../x", "acme/tiny@refs/pr/1x", "acme/tiny/../x"]),
    ],
)
def test_a_malformed_name_is_a_usage_error_and_sends_no_request(
    hub: Hub,
    refusals: Refusals,
    place: Path,
    command: str,
    names: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first in a process of its own; the others without Python's start, of half a second each."""
    for variable, value in refusals.commands.environment.items():
        monkeypatch.setenv(variable, value)
    for number, name in enumerate(names):
        words = asked(command, name, place)
        if number == 0:
            line = refusals.of(2, *words)
        else:
            assert main([str(word) for word in words]) == 2
            line = error_line(capsys.readouterr().err)
        after = name.rpartition("@")[2].rpartition("tiny/")[2].partition("/")[0]  # or the part that is wrong
        assert repr(name) in line or repr(after)[1:-1] in line
    assert hub.journal.requests() == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["datasets/acme/rows", "--type", "space"], "type"),
        (["acme/tiny@main", "--revision", "v1"], "revision"),
        (["acme/tiny/sub", "--subfolder", "other"], "folder"),
    ],
)
def test_a_name_and_options_that_contradict_each_other_are_told(
    hub: Hub, refusals: Refusals, place: Path, words: list[str], what: str
) -> None:
    repo, *options = words
    for command in ("mount", "ls"):
        line = refusals.of(2, *asked(command, repo, place), *options)
        assert "contradict each other" in line
        assert line.endswith(f"give the {what} once")
    assert hub.journal.requests() == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--type", "modle"], "modle"),
        (["--workers", "0"], "--workers"),
        (["--workers", "some"], "--workers"),
        (["--fetch-size", "big"], "--fetch-size"),
        (["--fetch-size", "0"], "--fetch-size"),
        (["--read-timeout", "soon"], "--read-timeout"),
        (["--read-timeout", "0"], "--read-timeout"),
        (["--prefetch", "everything"], "--prefetch"),
        (["--binding", "telepathy"], "--binding"),
        (["--endpoint", "huggingface.co"], "endpoint"),
        (["--endpoint", "http://"], "endpoint"),
        (["--nope"], "--nope"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    hub: Hub, refusals: Refusals, place: Path, options: list[str], named: str
) -> None:
    assert named in refusals.of(2, "mount", "acme/tiny", place, *options)
    assert hub.journal.requests() == []


def test_a_setting_of_the_environment_that_makes_no_sense_is_named(refusals: Refusals, place: Path) -> None:
    assert "HFFS_WORKERS" in refusals.of(2, "mount", "acme/tiny", place, HFFS_WORKERS="many")


def test_a_renamed_repo_works_by_its_old_name_and_shows_its_new_one(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.add_repo("old/name", files=FILES)
    hub.rename("old/name", "new/name")
    mounted = mount("old/name", "--prefetch", "none")
    assert mounted.status()["repo"] == "new/name"
    assert (mounted / "config.json").read_bytes() == b"{}"
    assert "new/name" in commands.expect("info", "old/name")


def test_mounting_a_renamed_repo_prints_its_new_name(hub: Hub, commands: Commands, place: Path) -> None:
    hub.add_repo("old/name", files=FILES)
    hub.rename("old/name", "new/name")
    assert commands.expect("mount", "old/name", str(place)).startswith(f"new/name is mounted at {place}")
    commands.expect("unmount", str(place))


def test_a_name_of_one_part_works_as_on_the_hub_of_old(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.add_repo("gpt2", files=FILES)
    mounted = mount("gpt2")
    assert (mounted / "sub/a.txt").read_bytes() == b"a"
    assert mounted.status()["repo"] == "gpt2"
    assert "config.json" in commands.expect("ls", "gpt2")


@pytest.mark.parametrize("command", ["status", "unmount", "du"])
def test_what_is_not_mounted_is_told_as_such(refusals: Refusals, place: Path, command: str) -> None:
    for target in (place, place / "nope"):
        assert refusals.of(3, command, target) == f"{target} is not mounted: hffs status lists the mounts"
