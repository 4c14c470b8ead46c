"""Names of repos that users write, and names of files that servers list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hffs.errors import NameRefused, UsageError
from hffs.model import RepoRef, RepoType
from hffs.names import check_name
from hffs.sources.hub.repo_id import parse_repo

MODEL, DATASET, SPACE = RepoType.MODEL, RepoType.DATASET, RepoType.SPACE

names = st.from_regex(r"[a-z0-9]([a-z0-9_.]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name and not name.endswith(".git")
)
revisions = st.one_of(
    st.sampled_from(["main", "refs/pr/1", "refs/pr/23", "refs/convert/parquet", "v1.0", "0" * 40, "feature/x/y"]),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
)
folders = st.lists(
    st.from_regex(r"[A-Za-z0-9 _@#%+-]{1,12}", fullmatch=True).filter(lambda part: part.strip() == part), max_size=3
).map("/".join)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("acme/tiny", RepoRef(MODEL, "acme/tiny")),
        ("hf://acme/tiny", RepoRef(MODEL, "acme/tiny")),
        ("models/acme/tiny", RepoRef(MODEL, "acme/tiny")),
        ("hf://datasets/acme/tiny@v1/data/part", RepoRef(DATASET, "acme/tiny", "v1", "data/part")),
        ("spaces/acme/tiny/", RepoRef(SPACE, "acme/tiny")),
        ("gpt2", RepoRef(MODEL, "gpt2")),
        ("gpt2/", RepoRef(MODEL, "gpt2")),
        ("gpt2@refs/pr/1", RepoRef(MODEL, "gpt2", "refs/pr/1")),
        ("gpt2@refs/pr/1/onnx", RepoRef(MODEL, "gpt2", "refs/pr/1", "onnx")),
        ("datasets/squad", RepoRef(DATASET, "squad")),
        ("datasets/squad@main", RepoRef(DATASET, "squad", "main")),
        ("acme/tiny@refs%2Fpr%2F1", RepoRef(MODEL, "acme/tiny", "refs/pr/1")),
        ("acme/tiny@feature%2Fx/sub", RepoRef(MODEL, "acme/tiny", "feature/x", "sub")),
        ("acme/tiny/model@2.bin", RepoRef(MODEL, "acme/tiny", None, "model@2.bin")),
    ],
)
def test_names_of_repos_are_parsed_as_huggingface_hub_does(text: str, ref: RepoRef) -> None:
    assert parse_repo(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "", "/", ".", "..", "~/x", "/acme/tiny", "./acme/tiny", "datasets", "datasets/", "dataset/acme/tiny",
        "model/acme/tiny", "kernels/acme/tiny", "buckets/acme/tiny", "acme//tiny", "acme/ti ny", "ac--me/tiny",
        "acme/tiny.git", "acme/t..y", "acme/tiny@", "acme/tiny@/x", "acme/tiny@a b", "acme/tiny@..", "acme/tiny@a..b",
        "acme/tiny@-x", "acme/tiny@refs/pr/1x", "acme/tiny@x%00y", "acme/tiny@.hidden", "acme/tiny@a.lock",
        "acme/tiny/..", "acme/tiny/a/../b", "acme/tiny/a//b", "acme/tiny/./b", "a" * 97, "acme/tiny\n", "acme/tiny\0",
        "x/" + "y" * 300, "acme/tiny/" + "z" * 300, "https://huggingface.co/acme/tiny", "huggingface.co/acme/tiny",
        "git+https://host/repo.git", "https://host/file.bin", "s3://bucket/x", "hf://", "hf:///acme/tiny", "@main",
        "git@hf.co:acme/tiny", "àcme/tiny",
    ],
)  # fmt: skip
def test_a_malformed_repo_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_repo(text)
    assert "\n" not in str(refused.value)
    assert "legacy" not in str(refused.value)


def test_an_address_is_refused_with_the_accepted_form() -> None:
    with pytest.raises(UsageError, match=r"ORG/NAME"):
        parse_repo("git+https://host/repo.git")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("datasets/acme/tiny", {"type": "model"}),
        ("models/acme/tiny", {"type": DATASET}),
        ("acme/tiny@main", {"revision": "dev"}),
        ("acme/tiny/a", {"subfolder": "b"}),
        ("acme/tiny", {"type": "bucket"}),
        ("acme/tiny", {"revision": "a b"}),
        ("acme/tiny", {"subfolder": "../a"}),
    ],
)
def test_contradictions_and_malformed_options_are_usage_errors(text: str, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        parse_repo(text, **options)  # type: ignore[arg-type]


@given(names, names, st.sampled_from(RepoType), st.none() | revisions, folders)
@example("acme", "tiny", DATASET, "refs/pr/1", "data")
def test_text_and_options_are_equivalent(
    org: str, name: str, kind: RepoType, revision: str | None, folder: str
) -> None:
    wanted = RepoRef(kind, f"{org}/{name}", revision, folder)
    assert parse_repo(f"{org}/{name}", type=kind, revision=revision, subfolder=folder) == wanted
    prefix = kind.prefix or "models/"
    encoded = "@" + revision.replace("/", "%2F") if revision else ""
    text = f"{prefix}{org}/{name}{encoded}" + (f"/{folder}" if folder else "")
    assert parse_repo(text) == wanted
    assert parse_repo("hf://" + text, type=kind, revision=revision, subfolder=folder) == wanted


@given(st.text(max_size=60))
@example("a/b@refs/pr/1/\ud800")
@example("legacy/legacy@x")
def test_any_text_is_a_repo_or_a_usage_error(text: str) -> None:
    try:
        ref = parse_repo(text)
    except UsageError:
        return
    assert 1 <= len(ref.id.split("/")) <= 2
    assert ".." not in ref.id


def test_a_name_that_leaves_its_directory_or_cannot_exist_is_refused() -> None:
    for name in ("", ".", "..", "../x", "a/..", "a/../b", "/x", "//x", "a//b", "a/", "a/./b", "n\0l", "x" * 256,
                 "é" * 128, "d/" * 2048 + "x", "d/" * 64 + "x", "\ud800", "a/\udcff"):  # fmt: skip
        with pytest.raises(NameRefused):
            check_name(name)


def test_odd_but_possible_names_are_kept() -> None:
    for name in (
        "back\\slash",
        "new\nline",
        " ",
        "a b#?%&.txt",
        "…",
        "..a",
        "a..",
        "...",
        "x" * 255,
        "d/" * 63 + "xx",
    ):
        assert check_name(name) == name


@given(
    st.text(st.characters(codec="utf-8"), max_size=300) | st.lists(st.sampled_from(["..", ".", "a", ""])).map("/".join)
)
def test_an_accepted_name_stays_below_its_directory(name: str) -> None:
    try:
        check_name(name)
    except NameRefused:
        return
    joined = os.path.normpath(os.path.join("/mnt/model", name))
    assert joined == f"/mnt/model/{name}"
    assert Path(joined).is_relative_to("/mnt/model")


def test_a_malformed_name_is_in_its_message_once() -> None:
    with pytest.raises(UsageError) as wrong:
        parse_repo("not a repo")
    assert str(wrong.value).count("not a repo") == 1
    assert "alphanumeric" in wrong.value.remedy
