"""The embedded store of a home: traces, versions, state, events, audits and usage."""

from __future__ import annotations

from dspex.distill.store.records import Audit, Event, Stage, State, Usage, VersionRecord, VersionStatus
from dspex.distill.store.store import Store

__all__ = ["Audit", "Event", "Stage", "State", "Store", "Usage", "VersionRecord", "VersionStatus"]
