"""RepoView against a plain set of paths: any repo, any pages, any patterns."""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.cache import BlobStore, Index, Layout
from hffs.errors import EntryNotFound, NotDirectory
from hffs.transfer import CommitFiles, Fetcher, Listings, Timers
from hffs.vfs import Patterns
from hffs.vfs.views import RepoView
from tests.support.profile import examples
from tests.unit.memory import COMMIT, MemoryCatalog, MemorySource

NAMES = st.sampled_from(["a", "b", "c.txt", "ü", "x y", "#", "%41", "d.bin"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(st.sampled_from(["*", "*.txt", "a/*", "b/", "*.bin", "nothing"]), max_size=2)


def without_clashes(paths: set[str]) -> set[str]:
    """No path may be a file and a folder of another."""
    return {path for path in paths if not any(other.startswith(path + "/") for other in paths)}


def match(path: str, include: list[str], exclude: list[str]) -> bool:
    def fits(pattern: str) -> bool:
        return fnmatch.fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)

    return (not include or any(map(fits, include))) and not any(map(fits, exclude))


@contextmanager
def view_of(catalog: MemoryCatalog, include: list[str], exclude: list[str]) -> Iterator[RepoView]:
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(folder)
        layout.prepare()
        store, index = BlobStore(layout), Index(layout.index)
        try:
            listings = Listings(catalog, index, COMMIT, timeout=10)
            listings.load()
            fetcher = Fetcher(store, MemorySource(), Timers(), workers=1)
            yield RepoView(CommitFiles(listings, store, fetcher), Patterns(include, exclude))
        finally:
            index.close()
            store.close()


def walk(view: RepoView, path: str = "/") -> Iterator[str]:
    for node in view.children(view.find(path)):
        assert view.find(node.path) is node
        assert view.node(node.id) is node
        if node.is_directory:
            yield from walk(view, node.path)
        else:
            yield node.path


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    paths=st.sets(PATHS, max_size=12).map(without_clashes),
    include=PATTERNS,
    exclude=PATTERNS,
    page=st.sampled_from([2, 5, 1000]),
    probes=st.lists(PATHS, max_size=6),
)
def test_a_view_shows_exactly_the_files_that_patterns_leave(
    paths: set[str], include: list[str], exclude: list[str], page: int, probes: list[str]
) -> None:
    catalog = MemoryCatalog({path: len(path) for path in sorted(paths)}, page)
    visible = {path for path in paths if match(path, include, exclude)}
    with view_of(catalog, include, exclude) as view:
        for probe in probes:  # before anything was listed
            if probe in visible:
                assert view.find(probe).path == probe
        assert sorted(walk(view)) == sorted(visible)
        for probe in probes:  # and after
            if probe in visible:
                assert not view.find(probe).is_directory
            elif probe in paths or not any(path.startswith(probe + "/") for path in paths):
                with pytest.raises((EntryNotFound, NotDirectory)):
                    view.find(probe)
