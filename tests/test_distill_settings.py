"""Settings of a distilled program: what is refused, and by which name."""

from __future__ import annotations

from typing import Any

import pytest

from dspex.distill.settings import DistillSettings, LifecycleSettings
from dspex.dspy import Distill
from dspex.errors import ConfigError


@pytest.mark.parametrize(
    "given", [{"audit_share": 0}, {"audit_share": 0.0, "automatic": False, "start": "canary"}]
)
def test_nothing_goes_live_unwatched_by_itself(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="without audits nothing is watched") as caught:
        DistillSettings.of({"lifecycle": given})
    assert caught.value.field == "lifecycle.audit_share"
    assert "promote versions yourself" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="without audits"):
        Distill(home="there", settings={"lifecycle": given})
    assert LifecycleSettings(audit_share=0.0, automatic=False).audit_share == 0


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (5, None),
        ("live", None),
        ([1], None),
        ({"lifecycle": 5}, "lifecycle"),
        ({"learning": None}, "learning"),
        ({"store": [1]}, "store"),
        ({"guarantee": {"tolerance": 5}}, "guarantee.tolerance"),
    ],
)
def test_what_is_no_group_of_settings_is_refused(given: Any, field: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        DistillSettings.of(given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (5, "settings"),
        ("live", "settings"),
        ([1], "settings"),
        ({5: 1}, "settings"),
        ({"lifecycle": 5}, "lifecycle"),
        ({"learning": None}, "learning"),
        ({"store": "here"}, "store"),
    ],
)
def test_the_optimizer_refuses_them_too(given: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distill(settings=given)
    assert caught.value.field == field


def test_a_group_may_be_given_as_settings() -> None:
    """What it does not say is as without it."""
    made = Distill(settings={"lifecycle": LifecycleSettings(audit_share=0.5)}).all_settings().lifecycle
    assert (made.audit_share, made.start, made.refit_start) == (0.5, "live", "live")
