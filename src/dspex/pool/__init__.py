"""The worker pool: batches on all cores, calls that wait elsewhere, sessions, backpressure."""

from dspex.pool.future import Future
from dspex.pool.pool import Pool, close_default_pool, default_pool
from dspex.pool.session import Session
from dspex.pool.settings import PoolSettings
from dspex.pool.stats import Durations, PoolStats, WorkerStats

__all__ = [
    "Durations",
    "Future",
    "Pool",
    "PoolSettings",
    "PoolStats",
    "Session",
    "WorkerStats",
    "close_default_pool",
    "default_pool",
]
