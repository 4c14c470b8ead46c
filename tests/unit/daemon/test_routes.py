"""The control socket's routes and messages agree with docs/openapi.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import MagicMock

import pytest
import yaml

from hffs.control import messages
from hffs.control.http import HttpError, Request
from hffs.daemon.routes import ControlRoutes

DOCUMENT = yaml.safe_load((Path(__file__).parents[3] / "docs/openapi.yaml").read_text())


def control_routes(**parts: Any) -> ControlRoutes:
    """With parts that are not used."""
    names = ("spec", "where", "commit", "ref", "hub", "fetcher", "reporter", "jobs", "files", "feed", "link")
    return ControlRoutes(**{name: parts.get(name, MagicMock()) for name in names})


def test_every_route_is_documented_and_every_documented_path_has_a_route() -> None:
    documented = {
        (method.upper(), re.sub(r"\{\w+\}", "*", path))
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert set(control_routes().routes()) == documented


@pytest.mark.parametrize(
    ("name", "described"),
    [
        (messages.Status, "Status"),
        (messages.SnapshotStatus, "Snapshot"),
        (messages.HydrationStatus, "Hydration"),
        (messages.VerificationStatus, "Verification"),
        (messages.Workers, "Workers"),
        (messages.FileList, "FileList"),
        (messages.FileBlockMap, "BlockMap"),
        (messages.EvictReply, "LetGo"),
        (messages.PinReply, "Pinned"),
        (messages.RefreshReply, "Refreshed"),
        (messages.JobList, "JobList"),
        (messages.Job, "Job"),
        (messages.JobFile, "JobFile"),
        (messages.ProgressEvent, "Progress"),
    ],
)
def test_every_message_is_documented_key_by_key(name: Any, described: str) -> None:
    schema = DOCUMENT["components"]["schemas"][described]
    assert set(schema["properties"]) == set(name.__annotations__)
    required = {key for key, kind in name.__annotations__.items() if "NotRequired" not in str(kind)}
    assert set(schema["required"]) == required


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (messages.State, DOCUMENT["components"]["schemas"]["Status"]["properties"]["state"]),
        (
            get_type_hints(messages.FileStatus)["state"],
            DOCUMENT["components"]["schemas"]["FileList"]["properties"]["files"]["items"]["properties"]["state"],
        ),
    ],
)
def test_every_state_is_documented(kind: Any, described: Any) -> None:
    assert tuple(described["enum"]) == get_args(kind)


def test_one_refresh_runs_at_a_time() -> None:
    hub = MagicMock()
    made = control_routes(hub=hub)

    def resolve(_: Any) -> Any:
        with pytest.raises(HttpError) as refused:
            made.routes()["POST", "/v1/refresh"](Request("POST", "/v1/refresh", {}))
        assert refused.value.status == 409
        raise OSError("ends here")

    source = hub.sources.of.return_value
    source.resolve.side_effect = resolve
    for _ in range(2):  # and again, after it failed
        with pytest.raises(OSError, match="ends here"):
            made.refresh()
    assert source.resolve.call_count == 2
