"""Where LMs come from: configuration, configure_lm, the spec, the call, the user's dspy.settings."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from typing import Any

import dspy
import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.config import Config
from dspex.errors import ConfigError, LMError
from dspex.testing.lm_server import LMServer, Status
from dspy_adapter_tools import LABEL, NO_RETRY, NamedEngine, over, program

NAME = "text -> label"
ROW = {"text": "who?"}


def named(name: str, **more: Any) -> dict[str, Any]:
    """Settings of an LM that answers with its name."""
    return {"model": f"test/{name}", "options": {"engine": NamedEngine(name)}, "retry": NO_RETRY, **more}


def asks(adapter: DspyAdapter, pid: str, **options: Any) -> str:
    return str(adapter.execute_program(pid, ROW, options or None).label)


def test_no_lm(lm_server: LMServer) -> None:
    adapter = DspyAdapter()
    pid = adapter.create_program({"id": "lonely", "signature": NAME})
    for call in (
        lambda: adapter.execute_program(pid, ROW),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
        lambda: adapter.execute_batch(pid, [ROW]),
    ):
        with pytest.raises(ConfigError, match="no language model is configured") as caught:
            call()
        assert (caught.value.field, caught.value.program) == ("lm", "lonely")
        assert "configure_lm" in str(caught.value.hint)
    refusal = adapter.available(pid)
    assert isinstance(refusal, ConfigError)
    assert not adapter.health_check()
    assert "lonely" in adapter.health_check().reason
    several = DspyAdapter({"lms": {"a": named("a"), "b": named("b")}})
    pid = several.create_program({"signature": NAME})
    with pytest.raises(ConfigError, match="none of the LMs 'a', 'b' is the default"):
        several.execute_program(pid, ROW)


def test_the_only_lm_is_the_default_and_lm_names_it() -> None:
    adapter = DspyAdapter({"lms": {"one": named("one")}})
    assert asks(adapter, adapter.create_program({"signature": NAME})) == "one"
    adapter = DspyAdapter(Config.of({"lm": "two", "lms": {"one": named("one"), "two": named("two")}}))
    assert asks(adapter, adapter.create_program({"signature": NAME})) == "two"


def test_program_and_call_may_name_another() -> None:
    adapter = DspyAdapter({"lm": "one", "lms": {name: named(name) for name in ("one", "two", "three")}})
    default = adapter.create_program({"signature": NAME})
    second = adapter.create_program({"signature": NAME, "lm": "two"})
    own = adapter.create_program({"signature": NAME, "lm": named("own")})
    live = adapter.create_program(
        {"signature": NAME, "lm": dspy.LM("test/live", engine=NamedEngine("live"), cache=False)}
    )
    for _ in range(2):
        assert [asks(adapter, pid) for pid in (default, second, own, live)] == ["one", "two", "own", "live"]
    assert asks(adapter, second, lm="three") == "three"
    assert asks(adapter, own, lm=named("call")) == "call"
    assert asyncio.run(adapter.aexecute_program(default, ROW, {"lm": "two"})).label == "two"
    assert [r.label for r in adapter.execute_batch(default, [ROW] * 3, {"lm": "three"})] == ["three"] * 3
    assert [adapter.get_program_info(pid)["program"]["lm"] for pid in (default, second, own, live)] == [
        "one", "two", "test/own", "test/live",
    ]  # fmt: skip


def test_configure_lm_is_heard_from_the_next_call_on() -> None:
    adapter = DspyAdapter({"lms": {"one": named("one")}})
    default = adapter.create_program({"signature": NAME})
    first = adapter.create_program({"signature": NAME, "lm": "one"})
    assert asks(adapter, default) == "one"
    for name in ("new", "newer"):
        adapter.configure_lm(named(name))
        assert (asks(adapter, default), asks(adapter, first)) == (name, "one")
    assert adapter.execute_program(default, ROW).usage["lms"] == {"default": 1}
    with pytest.raises(ConfigError):
        adapter.configure_lm({"model": "openai/x", "max_tokens": -1})
    assert asks(adapter, default) == "newer"


def test_a_new_default_reaches_those_that_fall_back_to_it() -> None:
    class Down:
        def complete(self, request: Any) -> Any:
            raise dspy.lm15.ServerError("down")

    adapter = DspyAdapter()
    adapter.configure_lm(named("old"))
    down = {"model": "test/down", "options": {"engine": Down()}, "retry": NO_RETRY, "fallbacks": ["default"]}
    pid = adapter.create_program({"signature": NAME, "lm": down})
    assert asks(adapter, pid) == "old"
    adapter.configure_lm(named("new"))
    assert asks(adapter, pid) == "new"


def test_names_that_are_none_are_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no LM is named 'fst'") as caught:
        DspyAdapter({"lm": "fst", "lms": {"fast": named("a")}})
    assert "'fast'" in str(caught.value.hint)
    adapter = DspyAdapter({"lms": {"fast": named("a")}})
    pid = adapter.create_program({"id": "p", "signature": NAME})
    for wrong, message in (("fsat", "no LM is named"), (3, "not int"), ({"modle": "x"}, "unknown setting")):
        with pytest.raises(ConfigError, match=message) as caught:
            asks(adapter, pid, lm=wrong)
        assert caught.value.program == "p"
    for spec in ({"lm": named("b", fallbacks=["big"])}, {"lm": "big"}):
        with pytest.raises(ConfigError, match="no LM is named 'big'"):
            adapter.create_program({"signature": NAME, **spec})
    with pytest.raises(ConfigError, match="no LM is named 'big'"):
        adapter.configure_lm(named("b", fallbacks=["big"]))
    adapter.configure_lm(named("b"))
    with pytest.raises(ConfigError, match="cannot stand in for itself"):
        adapter.configure_lm(named("b", fallbacks=["default"]))


def test_what_dspy_refuses_is_told_with_the_place() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": "openai/"}, "no model id"),
        ({"model": "openai/o1", "temperature": 0.5}, "reasoning models"),
        ({"model": "openai/x", "options": {"engine": "lm16"}}, "engine must be"),
        ({"model": "test/x", "options": {"engine": object()}}, "complete"),
        ({"model": "test/x", "options": {"engine": NamedEngine("a"), "base_url": "http://x"}}, "base_url"),
    ]
    for settings, message in wrong:
        adapter = DspyAdapter({"lms": {"bad": settings}})
        with pytest.raises(ConfigError, match=message) as caught:
            adapter.create_program({"signature": NAME, "lm": "bad"})
        assert caught.value.field == "lms.bad"
        with pytest.raises(ConfigError, match=message):
            adapter.configure_lm(settings)


def test_engines_by_import_path() -> None:
    adapter = DspyAdapter()
    for path, name in (("dspy_adapter_tools:engine", "made"), ("dspy_adapter_tools:ready", "ready")):
        adapter.configure_lm({"model": "test/x", "options": {"engine": path}})
        pid = adapter.create_program({"signature": NAME})
        assert asks(adapter, pid) == name
        assert asyncio.run(adapter.aexecute_program(pid, ROW)).label == name
    for path in ("dspy_adapter_tools:no_such", "no_such_module:engine", "dspy_adapter_tools:not_a_module"):
        with pytest.raises(ConfigError) as caught:
            adapter.configure_lm({"model": "test/x", "options": {"engine": path}})
        assert str(caught.value.field).startswith("lm")


def test_keys_from_the_environment(lm_server: LMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_server.answers = {"label": "refund"}
    settings = lm_server.lm_config(api_key="env:DSPY_TEST_KEY")
    adapter = DspyAdapter({"lms": {"server": settings}})  # one that is not used need not be set
    with pytest.raises(ConfigError, match="'DSPY_TEST_KEY' of an api_key is not set") as caught:
        adapter.create_program({"signature": LABEL, "lm": "server"})
    assert caught.value.field == "lms.server.api_key"
    monkeypatch.setenv("DSPY_TEST_KEY", "secret-from-the-environment")
    pid = adapter.create_program({"signature": LABEL, "lm": "server"})
    assert asks(adapter, pid) == "refund"
    lm = adapter.lms.get("server")
    assert lm.kwargs["api_key"] == "secret-from-the-environment"
    assert "secret" not in repr(adapter.get_stats()) + repr(adapter.get_program_info(pid))


def test_dspy_fetches_no_price_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    DspyAdapter().configure_lm(named("one"))
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "true"


def test_settings_reach_the_lm(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    lm = {"temperature": 0.25, "max_tokens": 77, "options": {"top_p": 0.5}}
    adapter, pid = program(lm_server, lm=lm)
    adapter.execute_program(pid, ROW)
    body = lm_server.requests[0].request.body
    assert (body["temperature"], body.get("max_tokens", body.get("max_completion_tokens"))) == (0.25, 77)
    assert body["top_p"] == 0.5


def test_equal_settings_are_one_lm() -> None:
    adapter = DspyAdapter()
    engine = NamedEngine("own")
    settings = {"model": "test/own", "options": {"engine": engine}}
    pids = [adapter.create_program({"signature": NAME, "lm": dict(settings)}) for _ in range(3)]
    for pid in pids:
        asks(adapter, pid)
        asks(adapter, pid, lm=dict(settings))
    stats = adapter.get_stats()["lms"]
    assert list(stats) == ["test/own"]
    assert stats["test/own"]["succeeded"] == 6
    other = adapter.create_program({"signature": NAME, "lm": {**settings, "temperature": 1.0}})
    asks(adapter, other)
    assert adapter.get_stats()["lms"].keys() == {"test/own", "test/own (2)"}


def test_lms_made_for_calls_are_not_kept_for_ever() -> None:
    adapter = over_instant = DspyAdapter()
    pid = adapter.create_program({"signature": NAME, "lm": named("own")})
    engines = []
    for number in range(100):
        engine = NamedEngine(str(number))
        engines.append(weakref.ref(engine))
        assert asks(over_instant, pid, lm={"model": "test/x", "options": {"engine": engine}}) == str(number)
        del engine
    gc.collect()
    assert sum(engine() is not None for engine in engines) <= 33
    assert asks(adapter, pid) == "own"


# The user's own


def test_the_users_lm_is_used_where_none_is_configured(lm_server: LMServer) -> None:
    adapter = DspyAdapter()
    pid = adapter.create_program({"signature": NAME})
    first, second = NamedEngine("first"), NamedEngine("second")
    lms = [
        dspy.LM("test/first", engine=first, cache=False),
        dspy.LM("test/second", engine=second, cache=False),
    ]
    for _ in range(3):
        for lm, name in zip(lms, ("first", "second"), strict=True):
            with dspy.context(lm=lm):
                assert asks(adapter, pid) == name
                assert asyncio.run(adapter.aexecute_program(pid, ROW)).label == name
                assert [r.label for r in adapter.execute_batch(pid, [ROW] * 4)] == [name] * 4
                assert asks(adapter, pid, timeout=5) == name
                assert adapter.available(pid) is None
    assert adapter.get_stats()["lms"]["test/first"]["succeeded"] == 21
    configured = over(lm_server)
    lm_server.answers = {"label": "server"}
    with dspy.context(lm=lms[0]):  # the adapter's own comes before it
        assert asks(configured, configured.create_program({"signature": NAME})) == "server"


def test_what_is_changed_on_the_users_lm_is_heard(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    lm = dspy.LM("openai/mine", api_base=lm_server.url, api_key="k", cache=False, temperature=0.1)
    adapter = DspyAdapter()
    pid = adapter.create_program({"signature": NAME})
    with dspy.context(lm=lm):
        asks(adapter, pid)
        lm.kwargs["temperature"] = 0.9
        asks(adapter, pid)
    assert [entry.request.body["temperature"] for entry in lm_server.requests] == [0.1, 0.9]
    assert type(lm) is dspy.LM
    assert lm.num_retries == 3


def test_the_users_retries_are_made_here_and_not_twice(lm_server: LMServer) -> None:
    lm_server.answers = Status(500)
    lm = dspy.LM("openai/mine", api_base=lm_server.url, api_key="k", cache=False, num_retries=1)
    adapter = DspyAdapter()
    pid = adapter.create_program({"signature": NAME})
    with dspy.context(lm=lm), pytest.raises(LMError):
        asks(adapter, pid)
    assert lm_server.count == 2
    lm.close()


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
def test_other_classes_of_lm() -> None:
    adapter = DspyAdapter()
    pid = adapter.create_program({"signature": NAME})
    dummy = dspy.utils.DummyLM([{"label": "dummy"}] * 9)
    with dspy.context(lm=dummy):
        assert asks(adapter, pid) == "dummy"
        assert asks(adapter, pid, timeout=5) == "dummy"
        assert asyncio.run(adapter.aexecute_program(pid, ROW)).label == "dummy"

    class Old(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            message = dspy.utils.dummies.dotdict(content="[[ ## label ## ]]\nold", tool_calls=None)
            choice = dspy.utils.dummies.dotdict(message=message, finish_reason="stop")
            return dspy.utils.dummies.dotdict(choices=[choice], usage={}, model="old")

    with dspy.context(lm=Old("test/old")):
        assert asks(adapter, pid) == "old"
        assert asks(adapter, pid, timeout=5) == "old"
        assert asyncio.run(adapter.aexecute_program(pid, ROW)).label == "old"


def test_an_engine_without_an_async_side_does_not_hold_up_the_loop() -> None:
    adapter = DspyAdapter(
        {"lms": {"slow": named("slow") | {"options": {"engine": NamedEngine("s", pause=0.2)}}}}
    )
    pid = adapter.create_program({"signature": NAME})

    async def eight() -> tuple[list[Any], float]:
        loop = asyncio.get_running_loop()
        calls = [asyncio.ensure_future(adapter.aexecute_program(pid, ROW)) for _ in range(8)]
        longest, before = 0.0, loop.time()
        while not all(call.done() for call in calls):
            await asyncio.sleep(0.005)
            longest, before = max(longest, loop.time() - before), loop.time()
        return [call.result() for call in calls], longest

    results, longest = asyncio.run(eight())
    assert [result.label for result in results] == ["s"] * 8
    assert longest < 0.15
