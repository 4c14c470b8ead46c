"""scripts/checks.py: each check finds a planted fault and accepts the same text without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "checks.py"
CLEAN = '"""Returns nothing."""\n\nfrom . import other\n\n\nclass Alone: ...\n'


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, looking at a repo of its own."""
    spec = importlib.util.spec_from_file_location("checks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "hffs").mkdir()
    (tmp_path / "hffs" / "__init__.py").write_text("")
    (tmp_path / "hffs" / "module.py").write_text(CLEAN)
    (tmp_path / "hffs" / "other.py").write_text('"""Nothing."""\n')
    return module


def faults(checks: Any, name: str) -> list[str]:
    return [f"{path.relative_to(checks.ROOT)}:{number}" for path, number, _ in checks.CHECKS[name]()]


def test_a_clean_repo_has_no_faults(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main([]) == 0
    assert capsys.readouterr().out.startswith("house rules kept")


@pytest.mark.parametrize(
    ("name", "file", "text", "found"),
    [
        ("words", "hffs/module.py", "# Nobody" + " waits.\n", ["hffs/module.py:1"]),
        ("words", "docs/a.md", "fine\n" + "Who" + "ever reads\n", ["docs/a.md:2"]),
        ("classes", "hffs/other.py", "class Alone: ...\n", ["hffs/other.py:1"]),
        ("modules", "hffs/looking.py", "", ["hffs/looking.py:1"]),
        ("cycles", "hffs/other.py", "def late() -> None:\n    from .module import Alone\n", ["hffs/module.py:1"]),
        ("conflicts", "notes.txt", "<" * 7 + " HEAD\n", ["notes.txt:1"]),
        ("paths", "notes.txt", "see " + "/wo" + "rk/main\n", ["notes.txt:1"]),
    ],
)
def test_a_planted_fault_is_found(checks: Any, name: str, file: str, text: str, found: list[str]) -> None:
    assert faults(checks, name) == []
    path = checks.ROOT / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert faults(checks, name) == found


def test_a_dependency_without_a_locked_version_is_found(checks: Any) -> None:
    project = (
        '[build-system]\nrequires = ["hatchling>=1"]\n[project]\ndependencies = [\n  "Some_thing[all]>=1,<2",\n]\n'
    )
    (checks.ROOT / "pyproject.toml").write_text(project)
    (checks.ROOT / "requirements.lock").write_text("# Python 3.11\nhatchling==1.33.0\n")
    assert faults(checks, "lock") == ["pyproject.toml:5"]
    (checks.ROOT / "requirements.lock").write_text("hatchling==1.33.0\nsome-thing==1.5\n")
    assert faults(checks, "lock") == []


def test_words_inside_other_words_and_paths_are_no_faults(checks: Any) -> None:
    (checks.ROOT / "a.md").write_text("whole this whose/what \n")
    assert faults(checks, "words") == []


def test_an_unknown_check_is_a_usage_error() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "nothing"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no such check: nothing" in done.stderr
