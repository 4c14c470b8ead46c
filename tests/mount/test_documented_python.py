"""The Python that the documents show runs as it stands there, in the order it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import Hub, Synthetic

from .mounted import CHECKOUT, PROGRAM_SECONDS, Commands

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REPO = "sentence-transformers/all-MiniLM-L6-v2"
# From where on the machine of a test cannot follow: there is no such model behind these.
LOADERS = "from transformers"


def examples(document: str) -> list[str]:
    found = BLOCK.findall((CHECKOUT / document).read_text(encoding="utf-8"))
    return [block for block in found if LOADERS not in block]


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_examples_run(document: str, commands: Commands, hub: Hub, tmp_path: Path) -> None:
    hub.add_repo(
        REPO,
        files={
            "config.json": b'{"model_type": "bert"}',
            "README.md": b"# A model\n",
            "model.safetensors": Synthetic(600_000, seed=1),
        },
    )
    blocks = examples(document)
    assert blocks, f"{document} shows no Python any more"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", "\n".join(blocks)],
        cwd=tmp_path, env={**commands.environment, "PYTHONPATH": os.fspath(CHECKOUT)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=PROGRAM_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stderr == ""


def test_every_public_call_has_an_example() -> None:
    names = "\n".join(examples("docs/python.md"))
    import hffs

    public = {name for name in hffs.__all__ if name[0].islower()}
    assert {name for name in public if f"hffs.{name}(" not in names} == set(), "calls that no example shows"
