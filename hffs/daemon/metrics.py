"""A mount's status as Prometheus metrics, derived from ``messages.Status`` at each scrape.

Imported by the route at the first scrape. Labels are few and bounded: neither file names nor times are among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ..control import messages
from ..control.http import Text

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def text(status: messages.Status, problems: Mapping[str, int]) -> Text:
    """The exposition, with a few metrics of this process. ``problems`` counts log records of WARNING and above by event
    name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status, problems))
    ProcessCollector(registry=registry)
    return Text(generate_latest(registry).decode("utf-8"), CONTENT_TYPE)


class _Status(Collector):
    def __init__(self, status: messages.Status, problems: Mapping[str, int]) -> None:
        self._status = status
        self._problems = problems

    def collect(self) -> Iterator[Metric]:
        s = self._status
        yield InfoMetricFamily(
            "hffs_mount",
            "What is mounted",
            value={key: str(s[key]) for key in ("mountpoint", "repo", "type", "revision", "commit", "binding")},
        )
        state = GaugeMetricFamily("hffs_state", "1 for the state that the mount is in", labels=["state"])
        for each in get_args(messages.State):
            state.add_metric([each], float(s["state"] == each))
        yield state
        yield _gauge("hffs_uptime_seconds", "Seconds since the mount was made", s["uptime_s"])
        yield _gauge("hffs_supervised", "1 if a supervisor would start another worker", s["supervisor"] is not None)
        yield CounterMetricFamily(
            "hffs_restarts", "Restarts of the worker", (s["supervisor"] or {"restarts": 0})["restarts"]
        )
        yield _gauge("hffs_hub_refused", "1 while the Hub refuses access", bool(s["hub"]["refused"]))
        yield from self._files(s)
        yield from self._transfers(s)
        yield from self._hydration(s["hydration"])
        yield _gauge("hffs_cache_bytes", "Bytes in the cache directory, of all mounts", s["cache"]["bytes"])
        yield from _optional(
            "hffs_cache_limit_bytes", "Limit of the cache directory; absent: no limit", s["cache"]["limit"]
        )
        yield _gauge("hffs_cache_disk_free_bytes", "Free on the cache's disk", s["cache"]["disk_free"])
        errors = CounterMetricFamily(
            "hffs_errors", "Log records of WARNING and above of this process, by event", labels=["kind"]
        )
        for kind, count in sorted(self._problems.items()):
            errors.add_metric([kind], count)
        yield errors

    def _files(self, s: messages.Status) -> Iterator[Metric]:
        yield from _optional("hffs_files", "Files of the mount; absent until all are listed", s["files"])
        yield from _optional(
            "hffs_size_bytes", "Bytes of the mount; absent until all files are listed", s["bytes_total"]
        )
        yield _gauge("hffs_local_bytes", "Bytes of the mount that are local", s["bytes_local"])
        yield _gauge("hffs_verified_files", "Files whose whole content matches its hash", s["verification"]["verified"])
        # Of this process: files that failed and were not verified since.
        yield _gauge(
            "hffs_mismatched_files", "Files whose content did not match its hash", len(s["verification"]["failed"])
        )
        yield _gauge("hffs_open_files", "Files that are open", len(s["open_files"]))

    def _transfers(self, s: messages.Status) -> Iterator[Metric]:
        yield CounterMetricFamily("hffs_fetched_bytes", "Bytes fetched by this process", s["bytes_fetched"])
        yield CounterMetricFamily("hffs_requests", "Requests to servers by this process", s["requests"])
        yield _gauge("hffs_waiting_reads", "Reads that wait for bytes", len(s["waiting_reads"]))
        oldest = max((read["seconds"] for read in s["waiting_reads"]), default=0.0)
        yield _gauge("hffs_waiting_read_oldest_seconds", "Age of the oldest waiting read", oldest)
        yield _gauge("hffs_workers", "Workers that fetch", s["workers"]["active"])
        yield _gauge("hffs_workers_limit", "Limit of concurrent workers", s["workers"]["limit"])
        yield _gauge("hffs_fetch_bytes_per_second", "Transfer rate", s["workers"]["bytes_per_s"])
        yield from _optional(
            "hffs_bandwidth_limit_bytes_per_second", "Bandwidth limit; absent: no limit", s["bandwidth"]["limit"]
        )

    def _hydration(self, job: messages.HydrationStatus) -> Iterator[Metric]:
        """Of all running hydrations, else of the last one."""
        yield _gauge("hffs_job_running", "1 while a hydration runs", job["state"] == "running")
        yield _gauge("hffs_job_done_bytes", "Bytes of the hydration that are local", job["bytes_done"])
        yield from _optional("hffs_job_size_bytes", "Bytes of the hydration", job["bytes_total"])
        yield _gauge("hffs_job_done_files", "Files of the hydration that are done", job["files_done"])
        yield from _optional("hffs_job_files", "Files of the hydration", job["files_total"])


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value)


def _optional(name: str, description: str, value: float | None) -> Iterator[Metric]:
    """Leaves out a value that is not known."""
    if value is not None:
        yield _gauge(name, description, value)
