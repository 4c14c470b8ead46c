"""Fixtures for tests of processes: a runtime directory, settings, a mount namespace."""

from tests.support.daemons import _no_child_stays, in_namespace, record, runtime, settings

__all__ = ["_no_child_stays", "in_namespace", "record", "runtime", "settings"]
