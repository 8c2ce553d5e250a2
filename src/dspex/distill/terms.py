"""The terms of a guarantee: those that a home keeps, and those that a version was certified on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from dspex.distill.agreement import A_FUNCTION, imported
from dspex.distill.settings import DistillSettings, GuaranteeSettings
from dspex.distill.store import Store, VersionRecord

__all__ = ["A_FUNCTION", "keep_terms", "kept_settings", "terms_of", "wanted_of", "weaker"]


def terms_of(settings: GuaranteeSettings, functions: Collection[str] = ()) -> dict[str, Any]:
    """The terms as JSON-able data, for `VersionRecord.figures["terms"]` and `Store.keep_guarantee`.

    Args:
        functions: "slices" or "costs", where a function was given that cannot be imported by a name.
    """
    return settings.model_dump(mode="json") | dict.fromkeys(functions, A_FUNCTION)


def weaker(record: VersionRecord, wanted: GuaranteeSettings) -> str | None:
    """Why a version's guarantee is weaker than what is wanted, or another; None: it is at least as strict.

    Its agreement, delta, classes and tolerances may be stricter; slices and costs have to be the same. How
    the rows are used (`method`), `novelty` and `min_coverage` are no part of what is promised. Of a version
    without terms, its certificate tells the agreement, and nothing else is compared.
    """
    terms: Mapping[str, Any] | None = record.figures.get("terms")
    if terms is None:
        agreement = float(record.certificate.get("agreement", wanted.agreement))
        return _less(agreement, wanted.agreement)
    return (
        _less(float(terms["agreement"]), wanted.agreement)
        or _riskier(float(terms["delta"]), wanted.delta)
        or _other("slices", terms["slices"], wanted.slices)
        or _other("costs", terms["costs"], wanted.costs)
        or ("it was not certified for each class" if wanted.per_class and not terms["per_class"] else None)
        or _laxer(terms["tolerance"], wanted.tolerance)
    )


def wanted_of(store: Store) -> GuaranteeSettings | None:
    """The guarantee that a home keeps; None: it keeps none.

    Raises:
        ConfigError: it was kept by a version of dspex with other settings.
    """
    kept = store.guarantee()
    return None if kept is None else GuaranteeSettings.of(kept, at="guarantee")


def kept_settings(store: Store, given: DistillSettings | Mapping[str, Any] | None) -> DistillSettings:
    """Settings whose guarantee is the home's where they do not say another.

    Args:
        given: each setting of the guarantee that was given goes before the kept one.

    Raises:
        ConfigError: they do not fit, by themselves or with those that the home keeps.
    """
    checked = DistillSettings.of(given)
    kept = store.guarantee()
    if kept is None:
        return checked
    said = _given(checked.guarantee) if "guarantee" in checked.model_fields_set else {}
    guarantee = GuaranteeSettings.of(kept | said, at="guarantee")
    for name in ("slices", "costs"):
        if getattr(guarantee, name) == A_FUNCTION:
            imported(A_FUNCTION, f"guarantee.{name}")  # refuses
    return checked.model_copy(update={"guarantee": guarantee})


def keep_terms(
    store: Store, settings: DistillSettings, given: DistillSettings | Mapping[str, Any] | None
) -> None:
    """Has the home keep a guarantee, if any of it was given.

    Args:
        settings: what `kept_settings` made of the given ones.
    """
    checked = DistillSettings.of(given)
    if "guarantee" in checked.model_fields_set and checked.guarantee.model_fields_set:
        outputs = store.learned_outputs() or tuple(store.signature.outputs)
        store.keep_guarantee(terms_of(settings.guarantee), outputs)


def _given(settings: BaseModel) -> dict[str, Any]:
    return settings.model_dump(mode="json", include=set(settings.model_fields_set))


def _less(has: float, wanted: float) -> str | None:
    return f"it was certified for an agreement of {has:g}, and {wanted:g} is wanted" if has < wanted else None


def _riskier(has: float, wanted: float) -> str | None:
    return f"it was certified with a delta of {has:g}, and {wanted:g} is wanted" if has > wanted else None


def _other(name: str, has: str | None, wanted: str | None) -> str | None:
    if has == wanted:
        return None
    return f"it was certified with {name} {_named(has)}, and {_named(wanted)} are wanted"


def _named(value: str | None) -> str:
    return "none" if value is None else repr(value)


def _laxer(has: Mapping[str, float], wanted: Mapping[str, float]) -> str | None:
    for name, value in has.items():
        if value > wanted.get(name, 0.0):
            return (
                f"it was certified with a tolerance of {value:g} for {name!r}, and "
                f"{wanted.get(name, 0.0):g} is wanted"
            )
    return None
