"""Worker processes: a framed protocol, and a pool of processes that speak it. It knows no handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.processes.channel import Channel, Later
    from dspex.processes.health import PoolHealth
    from dspex.processes.pool import ProcessPool
    from dspex.processes.server import Context, Handler

__all__ = ["Channel", "Context", "Handler", "Later", "PoolHealth", "ProcessPool"]

_HOMES = {
    "Channel": "channel",
    "Context": "server",
    "Handler": "server",
    "Later": "channel",
    "PoolHealth": "health",
    "ProcessPool": "pool",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # A worker imports this package too, and needs only its own end of the protocol.
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
