from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hffs.model import Entry, RepoType
from hffs.policy import small_files

KIB, MIB = 1024, 1024**2


def a_file(path: str, size: int | None = 100) -> Entry:
    return Entry(path, "file", size, "e" * 40)


def names(entries: list[Entry], repo_type: RepoType = RepoType.MODEL, requests_left: int | None = None) -> list[str]:
    return [entry.path for entry in small_files(entries, repo_type=repo_type, requests_left=requests_left)]


def test_files_a_model_loader_opens_first_come_first_and_weights_never() -> None:
    listing = [
        a_file("README.md"),
        a_file("onnx/model.onnx_data", 400 * KIB),
        a_file("model.safetensors", 500 * MIB),
        a_file("1_Pooling/config.json"),
        a_file("notes.txt"),
        a_file("model.safetensors.index.json"),
        a_file("tokenizer.json", 700 * KIB),
        a_file("config.json"),
    ]
    assert names(listing) == [
        "config.json", "model.safetensors.index.json", "tokenizer.json", "1_Pooling/config.json", "notes.txt",
        "onnx/model.onnx_data", "README.md",
    ]  # fmt: skip


def test_files_of_1_mib_or_unknown_size_are_left_out() -> None:
    listing = [a_file("a", MIB), a_file("b", MIB - 1), a_file("c", None), a_file("d", 0), Entry("e", "directory")]
    assert names(listing) == ["b"]


def test_at_most_256_files() -> None:
    assert len(names([a_file(f"{n}.json") for n in range(1000)])) == 256


def test_at_most_64_mib() -> None:
    chosen = small_files([a_file(f"{n:03}", 900 * KIB) for n in range(200)], repo_type=RepoType.MODEL)
    assert len(chosen) == 64 * MIB // (900 * KIB)


def test_at_most_half_of_the_requests_left_are_used() -> None:
    listing = [a_file("notes.txt"), a_file("b.json"), a_file("config.json"), a_file("model.safetensors.index.json")]
    assert names(listing, requests_left=5) == ["config.json", "model.safetensors.index.json"]
    assert len(names(listing, requests_left=8)) == 4
    assert names(listing, requests_left=1) == []
    assert names(listing, requests_left=-5) == []


def test_of_a_dataset_only_metadata_is_prefetched() -> None:
    listing = [
        a_file("data/train-00000.parquet", 9 * KIB),
        a_file("data/labels.json"),
        a_file("data/README.md"),
        a_file("data/some.yaml"),
        a_file("train/dataset_info.json"),
        a_file("dataset_infos.json"),
        a_file(".huggingface.yaml"),
        a_file("croissant.yml"),
        a_file("README.md"),
    ]
    assert names(listing, RepoType.DATASET) == [
        "README.md", ".huggingface.yaml", "croissant.yml", "dataset_infos.json", "train/dataset_info.json",
    ]  # fmt: skip


def test_of_a_space_its_card_and_requirements_are_prefetched_but_not_its_code() -> None:
    listing = [a_file("app.py"), a_file("requirements.txt"), a_file("README.md"), a_file("img/logo.png")]
    assert names(listing, RepoType.SPACE) == ["README.md", "requirements.txt"]


sizes = st.none() | st.integers(0, 2 * MIB)
paths = st.sampled_from(
    ["config.json", "README.md", "a/b.json", "x.bin", "y.yaml", ".huggingface.yaml", "d/state.json"]
)


@given(
    st.lists(st.tuples(paths, sizes), max_size=400).map(
        lambda rows: [a_file(f"{n}/{p}" if n % 2 else p, s) for n, (p, s) in enumerate(rows)]
    ),
    st.sampled_from(RepoType),
    st.none() | st.integers(0, 700),
)
def test_the_bounds_hold_for_every_listing_in_any_order(
    listing: list[Entry], repo_type: RepoType, requests_left: int | None
) -> None:
    chosen = small_files(listing, repo_type=repo_type, requests_left=requests_left)
    assert len(chosen) <= (256 if requests_left is None else min(256, requests_left // 2))
    sizes = [entry.size or 0 for entry in chosen]
    assert all(0 < size < MIB for size in sizes)
    assert sum(sizes) <= 64 * MIB
    distinct = {entry.path: entry for entry in listing}
    forwards = small_files(distinct.values(), repo_type=repo_type, requests_left=requests_left)
    assert small_files(reversed(distinct.values()), repo_type=repo_type, requests_left=requests_left) == forwards
