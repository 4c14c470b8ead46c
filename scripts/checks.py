#!/usr/bin/env python3
"""Checks of house rules that no linter knows. Each prints ``file:line: what is wrong``; the exit code is 1 if any did.

    scripts/checks.py            all checks of the table below
    scripts/checks.py words …    these checks only

A new check is one function and one row of ``CHECKS``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Persons that stand for processes, threads, files or callers. The first two lines of a licence and the like are data.
PERSONS = re.compile(r"(?<![\w/.-])(who|whoever|nobody|somebody|himself|him|his|whom)(?![\w/-])", re.IGNORECASE)
CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7}) |^={7}$")
ABSOLUTE = re.compile(r"(^|[^\w.-])/(work|farm)/")
# Nouns of the field that end in -ing.
NOUNS = frozenset({"binding", "finding", "ping"})
HISTORY = frozenset({"CHANGELOG.md"})  # its older entries stay as they were published

Fault = tuple[Path, int, str]


def tracked(*patterns: str) -> list[Path]:
    """Returns the tracked files that match, and untracked ones that are not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in sorted(set(filter(None, names))) if (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def words() -> Iterator[Fault]:
    """No person stands for a process, a thread, a file or a caller, in code, comments, messages, tests and docs."""
    for path in tracked("*.md", "*.py", "*.toml", "*.yml", "*.yaml", "scripts/*", "systemd/*"):
        if path.name in HISTORY or path == Path(__file__).resolve() or path.name == "test_checks.py":
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            for found in PERSONS.finditer(line):
                yield path, number, f"a person where a thing is meant: {found[1]!r}"


def classes() -> Iterator[Fault]:
    """A class name exists once in the package."""
    first: dict[str, Path] = {}
    for path in tracked("hffs/*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.ClassDef):
                if node.name in first:
                    yield path, node.lineno, f"the class {node.name} is also in {first[node.name].relative_to(ROOT)}"
                first.setdefault(node.name, path)


def modules() -> Iterator[Fault]:
    """A module is a noun, never a verb in -ing."""
    for path in tracked("hffs/*.py"):
        if path.stem.endswith("ing") and path.stem not in NOUNS:
            yield path, 1, f"the module {path.stem} is named by a verb"


def cycles() -> Iterator[Fault]:
    """No import circle, not even inside a room or inside functions."""
    graph = imports()
    for circle in circles(graph):
        head = circle[0]
        chain = " -> ".join([*circle, head])
        yield module_path(head), 1, f"import circle: {chain}"


def conflicts() -> Iterator[Fault]:
    """No conflict marker is committed."""
    for path in tracked():
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if CONFLICT.match(line) and path.suffix != ".rst":
                yield path, number, "a conflict marker"


def paths() -> Iterator[Fault]:
    """No file names a path of the machine that it was written on."""
    for path in tracked():
        if path.name in ("checks.py", "test_checks.py"):
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if ABSOLUTE.search(line):
                yield path, number, "a path of one machine"


def lock() -> Iterator[Fault]:
    """Every package that pyproject.toml names has its version in requirements.lock."""
    path = ROOT / "pyproject.toml"
    if not path.exists():
        return
    locked = set(re.findall(r"^([a-z0-9-]+)==", text_of(ROOT / "requirements.lock"), re.MULTILINE))
    project = tomllib.loads(text_of(path))
    groups = [project["build-system"]["requires"], project["project"]["dependencies"]]
    groups += project.get("dependency-groups", {}).values()
    for requirement in (each for group in groups for each in group):
        name = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()
        if name not in locked:
            lines = text_of(path).splitlines()
            number = next((n for n, line in enumerate(lines, 1) if f'"{requirement}"' in line), 1)
            yield path, number, f"{name} is not in requirements.lock: run scripts/lock"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_path(name: str) -> Path:
    path = ROOT / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports() -> dict[str, set[str]]:
    """Returns the modules of the package that each module imports, at any place in it."""
    files = {module_name(path): path for path in tracked("hffs/*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = graph[name] = set()
        for node in ast.walk(ast.parse(text_of(path))):
            if not isinstance(node, ast.ImportFrom):
                continue
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base
                if target in files and target != name:
                    found.add(target)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns one circle for each group of modules that reach one another."""
    reach: dict[str, set[str]] = {}
    for name, direct in graph.items():
        seen: set[str] = set()
        todo = list(direct)
        while todo:
            each = todo.pop()
            if each not in seen:
                seen.add(each)
                todo.extend(graph[each])
        reach[name] = seen
    found: list[list[str]] = []
    done: set[str] = set()
    for name, seen in reach.items():
        group = sorted(each for each in seen if name in reach[each])
        if group and name not in done:
            done.update(group)
            found.append(group)
    return found


CHECKS = {check.__name__: check for check in (words, classes, modules, cycles, conflicts, paths, lock)}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"checks.py: no such check: {', '.join(unknown)}: there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    faults = [fault for name in names or CHECKS for fault in CHECKS[name]()]
    for path, number, what in faults:
        print(f"{path.relative_to(ROOT)}:{number}: {what}")
    print(f"{len(faults)} faults" if faults else f"house rules kept: {', '.join(names or CHECKS)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
