"""Answers kept for a while."""

from __future__ import annotations

import json

from dspex.config import AnswerCacheSettings
from dspex.protection import AnswerCache
from test_pool_tools import in_threads
from test_protection_tools import Clock


def test_by_default_it_is_off() -> None:
    cache: AnswerCache[str] = AnswerCache(AnswerCacheSettings())
    assert not cache.enabled
    cache.put("key", "answer")
    assert cache.get("key") is None
    assert cache.stats() == {"kept": 0, "hits": 0, "misses": 0}


def test_size_and_the_one_not_used_for_longest_goes() -> None:
    for size in (2, 3, 9):
        cache: AnswerCache[int] = AnswerCache(AnswerCacheSettings(size=size))
        assert cache.enabled
        for key in range(size):
            cache.put(key, key)
        assert cache.get(0) == 0
        cache.put("new", 9)
        assert cache.get(1) is None
        assert cache.get(0) == 0
        assert cache.stats()["kept"] == size


def test_ttl() -> None:
    for ttl in (300.0, 20.0):
        clock = Clock()
        cache: AnswerCache[str] = AnswerCache(AnswerCacheSettings(size=9, ttl=ttl), clock)
        cache.put("key", "answer")
        clock.sleep(ttl - 1)
        assert cache.get("key") == "answer"  # which does not make it younger
        clock.sleep(2)
        assert cache.stats()["kept"] == 0
        assert cache.get("key") is None
        cache.put("key", "other")
        assert cache.get("key") == "other"


def test_room_for_one() -> None:
    cache: AnswerCache[str] = AnswerCache(AnswerCacheSettings(size=1))
    cache.put("a", "answer")
    assert cache.get("a") == "answer"
    cache.put("b", "other")
    assert cache.get("a") is None


def test_clear_and_counts() -> None:
    cache: AnswerCache[str] = AnswerCache(AnswerCacheSettings(size=9))
    answer = "".join(["an", "swer"])
    cache.put(("p", 1), answer)
    assert cache.get(("p", 1)) is answer
    assert cache.get(("p", 2)) is None
    assert cache.get(("p", 3)) is None
    assert json.loads(json.dumps(cache.stats())) == {"kept": 1, "hits": 1, "misses": 2}
    cache.clear()
    assert cache.get(("p", 1)) is None


def test_threads_share_it() -> None:
    cache: AnswerCache[int] = AnswerCache(AnswerCacheSettings(size=50))

    def work(number: int) -> None:
        for i in range(1000):
            key = (number * i) % 100
            cache.put(key, key)
            assert cache.get(key) in (key, None)

    in_threads(work, 8)
    stats = cache.stats()
    assert stats["kept"] == 50
    assert stats["hits"] + stats["misses"] == 8000
