"""`hffs cache adopt` and `export` with synthetic results of the API."""

from __future__ import annotations

import argparse
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from hffs.api.hub_cache import Adopted, Exported
from hffs.cli import parser
from hffs.cli.commands import hub_cache
from hffs.errors import UsageError

EXPORTED = Exported("/hub/models--acme--tiny/snapshots/" + "a" * 40, "a" * 40, 5, 3 << 20, 0)


def parsed(*words: str) -> argparse.Namespace:
    return parser.build().parse_args(["cache", *words])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of API calls; ``found`` in it is returned by ``adopt``."""
    calls: dict[str, Any] = {"found": []}

    def adopt(repos: list[str], **options: Any) -> list[Adopted]:
        calls.update(repos=repos, **options)
        return list(calls["found"])

    def export(repo: str, **options: Any) -> Exported:
        calls.update(repo=repo, **options)
        return EXPORTED

    module: Any = ModuleType("hffs.api.hub_cache")
    module.adopt, module.export = adopt, export
    monkeypatch.setitem(sys.modules, "hffs.api.hub_cache", module)
    monkeypatch.setattr("hffs.api.hub_cache", module)
    return calls


def test_adopt_prints_a_line_for_each_repo(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    calls["found"] = [
        Adopted("acme/tiny", in_place=4, reflinked=1, held=2, bytes_adopted=3 << 20),
        Adopted("datasets/acme/rows", held=7),
    ]
    assert hub_cache.adopt(parsed("adopt", "acme/tiny", "datasets/acme/rows", "--hf-cache", "/hub")) == 0
    assert (calls["repos"], calls["type"], calls["hf_cache"]) == (["acme/tiny", "datasets/acme/rows"], None, "/hub")
    assert capsys.readouterr().out.splitlines() == [
        "acme/tiny: 5 files, 3.0M adopted (4 in place, 1 reflinked); 2 cached before",
        "datasets/acme/rows: 0 files, 0B adopted; 7 cached before",
    ]


def test_adopt_names_wrong_files_and_exits_with_6(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    calls["found"] = [Adopted("acme/tiny", wrong=("/hub/blobs/abc",), skipped=1)]
    assert hub_cache.adopt(parsed("adopt")) == 6
    written = capsys.readouterr()
    assert written.out == "acme/tiny: 0 files, 0B adopted; 1 skipped: being written, 1 wrong\n"
    assert written.err == "hffs: /hub/blobs/abc does not match the hash in its name, and is not used\n"
    assert hub_cache.adopt(parsed("adopt", "--json")) == 6
    assert json.loads(capsys.readouterr().out)[0]["wrong"] == ["/hub/blobs/abc"]


def test_export_prints_the_exported_folder(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("export", "acme/tiny", "--revision", "v1", "--no-fetch", "--include", "*.json", "--include", "a,b")
    assert hub_cache.export(parsed(*words)) == 0
    assert {name: calls[name] for name in ("repo", "revision", "fetch", "include")} == {
        "repo": "acme/tiny",
        "revision": "v1",
        "fetch": False,
        "include": ("*.json", "a,b"),
    }
    assert capsys.readouterr().out == f"{EXPORTED.path}: 5 files, 3.0M, verified; nothing was fetched\n"
    assert hub_cache.export(parsed("export", "acme/tiny", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["commit"] == "a" * 40
    with pytest.raises(UsageError):
        parsed("export")
