"""A version: a program taught by some rows, certified by others."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from distill_rows import TEXT, easy, trace
from dspex import demo
from dspex.distill.agreement import Agreement, imported
from dspex.distill.judging import judge, stands_of
from dspex.distill.making import certified, lacking, make, taught
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace
from dspex.errors import ConfigError, InputError
from dspex.guarantee.certify import delta_of
from dspex.signature import Signature


def settings(**values: object) -> GuaranteeSettings:
    return GuaranteeSettings.of({"agreement": 0.9, **values})


@pytest.fixture(scope="module")
def demo_rows() -> tuple[list[Trace], list[Trace]]:
    train, unseen = demo.split()
    return tuple([trace(row["text"], row["label"]) for row in part] for part in (train, unseen))  # type: ignore[return-value]


@pytest.mark.parametrize("method", ["split", "cross"])
def test_a_certificate_on_real_texts_holds_on_unseen_ones(demo_rows, method):
    train, unseen = demo_rows
    wanted = settings(agreement=0.85, method=method)
    made = make(TEXT, train[:700], train[700:], wanted)
    assert made.certificate.covers
    assert made.certificate.rows == len(train) - 700
    judged = judge(made.program, unseen, wanted)
    stands = stands_of(made.guarded, unseen, judged)
    assert stands.mean() > 0.5
    assert judged.wrong[stands].mean() < 0.15 + 0.05  # the bound, and the noise of 264 texts
    assert judged.wrong[stands].mean() < judged.wrong.mean()


def test_cross_teaches_all_rows_and_split_only_those_to_fit(demo_rows):
    train, _ = demo_rows
    split = make(TEXT, train[:700], train[700:], settings())
    cross = make(TEXT, train[:700], train[700:], settings(method="cross"))
    assert split.figures["rows_fit"] == 700
    assert cross.figures["rows_fit"] == len(train)
    assert any(
        "held" in text or "own row" in text or "models" in text for text in cross.certificate.assumptions
    )


def test_shuffled_labels_certify_nothing_and_it_is_said_plainly(demo_rows):
    train, _ = demo_rows
    labels = [row.answer.outputs["label"] for row in train]
    np.random.default_rng(0).shuffle(labels)
    rows = [trace(row.inputs["text"], label) for row, label in zip(train, labels, strict=True)]
    made = make(TEXT, rows[:700], rows[700:], settings(agreement=0.95))
    assert not made.certificate.covers
    assert made.certificate.coverage == 0
    assert made.certificate.reason.startswith("nothing can be guaranteed")
    assert made.guarded.threshold == math.inf
    lack = lacking(taught(TEXT, rows[:700], [], settings()), 400, settings(agreement=0.95), 0.05)
    assert lack is not None
    assert lack.rows is None
    assert "disagree" in lack.reason


def test_too_few_rows_are_told_before_any_is_used_up():
    lesson = taught(TEXT, easy(400, 1), [], settings())
    lack = lacking(lesson, 5, settings(agreement=0.95), 0.05)
    assert lack is not None
    assert lack.rows is not None
    assert 20 < lack.rows < 400
    assert f"{lack.rows:,} more" in lack.reason
    assert lacking(lesson, 5 + lack.rows, settings(agreement=0.95), 0.05) is None
    assert lacking(lesson, 0, settings(per_class=True), 0.05) is not None
    hopeless = taught(TEXT, easy(400, 1, noise=1.0), [], settings())
    assert lacking(hopeless, 589, settings(agreement=0.95), 0.05) is not None
    assert lacking(hopeless, 590, settings(agreement=0.95), 0.05) is None  # so many are tried in any case


def test_without_certifying_rows_nothing_is_made():
    with pytest.raises(InputError, match="no rows that certify"):
        make(TEXT, easy(100, 1), [], settings())


def test_later_versions_spend_less_of_delta():
    only = make(TEXT, easy(300, 1), easy(300, 2), settings())
    first = make(TEXT, easy(300, 1), easy(300, 2), settings(), version=1)
    third = make(TEXT, easy(300, 1), easy(300, 2), settings(), version=3)
    assert only.certificate.delta == 0.05
    assert first.certificate.delta == delta_of(0.05, 1) < 0.05
    assert third.certificate.delta == delta_of(0.05, 3) < first.certificate.delta


def test_novelty_defers_that_share_whatever_is_certified(demo_rows):
    train, unseen = demo_rows
    for share in (0.0, 0.1, 0.3):
        wanted = settings(agreement=0.3, novelty=share)
        made = make(TEXT, train[:700], train[700:], wanted)
        stands = stands_of(made.guarded, unseen, judge(made.program, unseen, wanted)).mean()
        assert stands == pytest.approx(1 - share, abs=0.1)


def test_the_more_may_disagree_the_less_is_set_aside_as_novel():
    shares = [settings(agreement=agreement).novel_share for agreement in (0.98, 0.95, 0.9, 0.8)]
    assert shares == pytest.approx([0.05, 0.05, 0.025, 0.0125])
    assert settings(agreement=0.9, novelty=0.05).novel_share == 0.05
    assert settings(novelty=0.0).novel_share == 0
    rows = easy(600, 7)
    floors = [
        make(TEXT, rows[:400], rows[400:], settings(agreement=agreement)).program.info()["gate"]["floor"]
        for agreement in (0.95, 0.8)
    ]
    assert floors[0] > floors[1]


def test_each_class_can_be_guaranteed_by_itself():
    rows = easy(900, 4)
    hard = [
        trace(row.inputs["text"], "lost" if at % 3 else "refund")
        if row.answer.outputs["label"] == "lost"
        else row
        for at, row in enumerate(rows)
    ]
    made = make(TEXT, hard[:400], hard[400:], settings(per_class=True))
    assert made.guarded.threshold is None
    assert made.certificate.thresholds is not None
    assert made.certificate.thresholds["open"] is not None
    assert made.certificate.thresholds["lost"] is None  # a third of its answers is wrong
    result = made.program.predict({"text": "open hours today x1"})
    assert made.guarded.stands(result, {"text": "open hours today x1"})


def long_or_short(inputs):
    return "long" if len(inputs["text"].split()) > 5 else "short"


def test_slices_are_a_function_of_the_inputs():
    rows = easy(900, 5)
    mixed = [
        trace(row.inputs["text"] + " and so on it goes", "open" if at % 8 else "lost") if at % 4 == 0 else row
        for at, row in enumerate(rows)
    ]
    made = make(TEXT, mixed[:450], mixed[450:], settings(), slices=long_or_short)
    assert made.certificate.thresholds is not None
    assert made.certificate.thresholds["short"] is not None
    assert made.certificate.thresholds["long"] is None
    named = make(TEXT, mixed[:450], mixed[450:], settings(slices=f"{__name__}:long_or_short"))
    assert named.certificate.thresholds == made.certificate.thresholds
    short = {"text": "open hours today"}
    assert named.guarded.group(named.program.predict(short), short) == "short"
    assert named.figures["line"]["answered"] == named.certificate.accepted > 0


def cheap(inputs, native, teacher):
    return 0.1


def test_costs_weigh_the_errors():
    rows = easy(1200, 6, noise=0.3)
    plain = make(TEXT, rows[:600], rows[600:], settings(agreement=0.9))
    weighed = make(TEXT, rows[:600], rows[600:], settings(agreement=0.9), costs=cheap)
    assert not plain.certificate.covers
    assert weighed.certificate.coverage > 0.9
    with pytest.raises(ConfigError, match="cost"):
        make(TEXT, rows[:600], rows[600:], settings(), costs=lambda *_: 2.0)


def test_a_certificate_that_covers_too_little_counts_as_none():
    rows = easy(600, 7)
    made = make(TEXT, rows[:300], rows[300:], settings(min_coverage=0.99, novelty=0.2))
    assert not made.certificate.covers
    assert "min_coverage" in made.certificate.reason


def test_numbers_agree_within_their_tolerance():
    signature = Signature.of("text -> stars: int")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(900):
        stars = int(rng.integers(1, 6))
        words = [f"w{stars}" for _ in range(3)] + [f"x{rng.integers(50)}"]
        rows.append(trace(" ".join(words), stars, "stars"))
    made = make(signature, rows[:450], rows[450:], settings(tolerance={"stars": 1}))
    assert made.certificate.coverage > 0.8
    assert made.figures["reference"]["counts"] is None  # numbers are no classes
    result = made.program.predict({"text": "w5 w5 w5"})
    assert abs(result.stars - 5) <= 1
    with pytest.raises(ConfigError, match="no numeric output"):
        make(signature, rows[:450], rows[450:], settings(tolerance={"starz": 1}))


def test_figures_tell_of_classes_boundary_and_drift():
    rows = easy(800, 8, noise=0.1)
    made = make(TEXT, rows[:400], rows[400:], settings(agreement=0.85))
    figures = made.figures
    assert sum(line["rows"] for line in figures["per_class"].values()) == 400
    assert sum(line["answered"] for line in figures["per_class"].values()) == made.certificate.accepted
    assert sum(line["wrong"] for line in figures["per_class"].values()) == made.certificate.errors
    assert figures["line"]["coverage"] == pytest.approx(made.certificate.coverage)
    threshold = made.certificate.threshold
    assert figures["boundary"]
    for pair in figures["boundary"]:
        assert pair["deferred"]["score"] < threshold <= pair["answered"]["score"]
    assert figures["reference"]["rows"] == 400
    assert make(TEXT, rows[:400], rows[400:], settings(method="cross")).figures["reference"] is None


def test_a_guarded_program_is_pickled_whole():
    made = make(TEXT, easy(300, 1), easy(300, 2), settings())
    again = pickle.loads(pickle.dumps(made.guarded))
    assert again.threshold == made.guarded.threshold
    assert again.certificate == made.certificate


@pytest.mark.parametrize("method", ["split", "cross"])
def test_blank_texts_are_neither_learned_from_nor_answered(method):
    rows = [*easy(300, 2), trace("  ", "open")]
    made = make(TEXT, [trace("", "lost"), *easy(300, 1)], rows, settings(method=method))
    assert made.certificate.rows == 301
    assert 200 < made.certificate.accepted <= 300
    assert made.figures["rows_fit"] == (600 if method == "cross" else 300)


def test_agreement_compares_by_type():
    agreement = Agreement(Signature.of("text -> label, tags: list[Literal['a', 'b']], n: int"), {"n": 1})
    one = {"label": "x", "tags": ["a", "b"], "n": 3}
    assert agreement.wrong(one, {"label": "x", "tags": ["b", "a"], "n": 4}) == []
    assert agreement.wrong(one, {"label": 1, "tags": ["a"], "n": 5}) == ["label", "tags", "n"]
    with pytest.raises(ConfigError, match="float"):
        Agreement(Signature.of("text -> n: float"))


def test_functions_are_named_by_where_they_are():
    assert imported("math:sqrt", "slices") is math.sqrt
    for wrong in ("math", "math:no", "nowhere.at.all:f", "math:pi"):
        with pytest.raises(ConfigError, match=r"import|function"):
            imported(wrong, "slices")


def test_certified_again_gives_the_same():
    lesson = taught(TEXT, easy(300, 1), [], settings())
    assert (
        certified(lesson, easy(300, 2), settings()).certificate
        == certified(lesson, easy(300, 2), settings()).certificate
    )


def test_what_distillation_decides_itself_is_no_option_of_the_fit():
    with pytest.raises(ConfigError, match="fit_options"):
        make(TEXT, easy(100, 1), easy(100, 2), settings(), fit_options={"novelty": 0.1})
