"""scripts/audit never reports packages as clean without a look-up. Its tools are replaced: they need a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/audit"
CLEAN = "echo 'No known vulnerabilities found'"
FOUND = 'echo \'{"vulns": [{"id": "PYSEC-1"}]}\'; exit 1'
AWAY = "echo 'ConnectionError: no such host' >&2; exit 1"
# Of the old urllib3 there is an advisory, of what is installed there is none, or there is one.
KNOWS = f'case "$*" in *known*) {FOUND} ;; *) {CLEAN} ;; esac'
WARNS = f'case "$*" in *known*) {FOUND} ;; *) echo "PYSEC-2"; exit 1 ;; esac'
FREEZE = 'case "$*" in *freeze*) echo "requests==2.0" ;; esac'


def audit(root: Path, pip_audit: str, *, python: str = FREEZE) -> subprocess.CompletedProcess[str]:
    (root / "scripts").mkdir()
    (root / ".venv/bin").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "scripts")
    tools = {"scripts/setup": "", ".venv/bin/bandit": "", ".venv/bin/python": python, ".venv/bin/pip-audit": pip_audit}
    for name, text in tools.items():
        (root / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / name).chmod(0o755)
    return subprocess.run([root / "scripts/audit", "5"], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("pip_audit", [AWAY, CLEAN], ids=["no service", "an index without advisories"])
def test_without_advisories_it_says_so_and_fails(tmp_path: Path, pip_audit: str) -> None:
    done = audit(tmp_path, pip_audit)
    assert done.returncode == 2
    assert "hffs: NOT AUDITED: no advisory service answers, or it knows none" in done.stderr
    assert "No known vulnerabilities" not in done.stdout
    assert "== fuzz, 5 examples" in done.stdout, "the rest is looked at all the same"


def test_an_empty_list_is_not_clean(tmp_path: Path) -> None:
    done = audit(tmp_path, KNOWS, python="")
    assert (done.returncode, "NOT AUDITED: nothing is installed" in done.stderr) == (2, True)


def test_it_is_clean_when_the_service_knows_of_nothing(tmp_path: Path) -> None:
    done = audit(tmp_path, KNOWS)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No known vulnerabilities found" in done.stdout


@pytest.mark.parametrize(
    ("pip_audit", "python"), [(WARNS, FREEZE), (KNOWS, FREEZE + "; case $* in *pytest*) exit 1 ;; esac")]
)
def test_an_advisory_or_a_failed_test_is_a_failure(tmp_path: Path, pip_audit: str, python: str) -> None:
    assert audit(tmp_path, pip_audit, python=python).returncode == 1
