"""What every call gives back, whoever answered it."""

from __future__ import annotations

from ._core import Result

__all__ = ["Result", "Route"]


class Route(str):
    """The backend that answered a call: a string such as ``"native"``, with the reason for it.

    Attributes:
        reason: why the call went there.
        degraded: whether a better backend was wanted and could not be had.
    """

    __slots__ = ("degraded", "reason")
    reason: str
    degraded: bool

    def __new__(cls, backend: str, *, reason: str = "", degraded: bool = False) -> Route:
        route = super().__new__(cls, backend)
        route.reason = reason
        route.degraded = degraded
        return route

    def __reduce__(self) -> tuple[object, ...]:
        return _route, (str(self), self.reason, self.degraded)


def _route(backend: str, reason: str, degraded: bool) -> Route:
    return Route(backend, reason=reason, degraded=degraded)
