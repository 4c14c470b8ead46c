"""The sources that settings name. The only module that makes one; all others know ``sources.base``."""

from __future__ import annotations

from ..config import Settings
from ..sources.base import Source
from ..sources.hub.source import HubSource


def hub_source(settings: Settings, *, lapse_seconds: float = 0.0) -> Source:
    """The Hub of the settings. For ``lapse_seconds`` a refusal of what was granted before is AccessLapsed."""
    return HubSource(settings.endpoint, settings.token_file, lapse_seconds=lapse_seconds)
