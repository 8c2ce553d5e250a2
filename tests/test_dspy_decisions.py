"""A native program as DSPy's decision client: Choice, Noul, Score, and plain Literals and bools."""

from __future__ import annotations

import asyncio
import copy
import io
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import dspy
import pytest
from dspy.adapters.decision import record_evidence
from dspy.experimental import Choice, Noul, ReAnchor, Score
from dspy.utils.callback import BaseCallback

import dspex
from dspex.dspy import NativeDecisions
from dspex.errors import ConfigError, InputError, ModelFileError, SignatureError
from dspy_embed_tools import TASK, program, rows

SURE = "I lost my card"
LEVELS = ("can wait", "today", "at once")
Kind = Choice[("refund", "Money back"), ("card_lost", "A card is gone"), ("hours", "When we are open")]
Haste = Score[LEVELS]


class Triage(dspy.Signature):
    """Sort a message."""

    text: str = dspy.InputField()
    kind: Kind = dspy.OutputField(desc="what it is about")  # type: ignore[valid-type]
    lost: Noul = dspy.OutputField(desc="whether a card is gone")
    haste: Haste = dspy.OutputField(desc="how soon")  # type: ignore[valid-type]


def labelled() -> list[dict[str, Any]]:
    level = {"hours": 0, "refund": 1, "card_lost": 2}
    return [
        {
            "text": row["text"],
            "kind": row["label"],
            "lost": row["label"] == "card_lost",
            "haste": level[row["label"]],
        }
        for row in rows()
    ]


@pytest.fixture(scope="module")
def client() -> NativeDecisions:
    return NativeDecisions.fit(Triage, labelled(), threads=1, id="triage")


@pytest.fixture(scope="module")
def labels() -> NativeDecisions:
    return NativeDecisions(program(id="labels"))


@pytest.fixture(autouse=True)
def _no_lm() -> Iterator[None]:
    with dspy.context(lm=None, trace=[]):
        yield


def ask(client: NativeDecisions, **changes: Any) -> dict[str, Any]:
    question = {"type": "choice", "criteria": {"refund": None, "card_lost": None, "hours": None}}
    return client({"inputs": {"text": SURE}}, {"label": question | changes})


def test_all_kinds(client: NativeDecisions) -> None:
    for answer in (
        dspy.Predict(Triage)(text=SURE, lm=client),
        asyncio.run(dspy.Predict(Triage).acall(text=SURE, lm=client)),
    ):
        assert answer.kind.value == "card_lost"
        assert set(answer.kind.probabilities) == {"refund", "card_lost", "hours"}
        assert answer.kind.confidence == max(answer.kind.probabilities.values()) > 0.9
        assert answer.lost
        assert answer.lost.probability > 0.9
        assert answer.haste.level == 2
        assert answer.haste.value == pytest.approx(2, abs=0.2)
        assert set(answer.haste.probabilities) == {0, 1, 2}


def test_probabilities_are_those_of_the_program(client: NativeDecisions) -> None:
    text = "hello there money"
    native = client.program.predict({"text": text})
    answer = dspy.Predict(Triage)(text=text, lm=client)
    assert answer.kind.probabilities == pytest.approx(native.probabilities("kind"))
    assert answer.lost.probability == pytest.approx(native.probabilities("lost")[True])
    assert answer.haste.probabilities == pytest.approx(native.probabilities("haste"))


def test_plain_types(labels: NativeDecisions) -> None:
    signature = dspy.Signature(TASK).with_updated_fields("label", desc="the intent")
    assert dspy.Predict(signature)(text=SURE, lm=labels).label == "card_lost"

    class Native(dspy.Signature):
        """Sort."""

        text: str = dspy.InputField()
        label: Annotated[Literal["refund", "card_lost", "hours"], Kind] = dspy.OutputField(desc="it")  # type: ignore[valid-type]

    assert dspy.Predict(Native)(text=SURE, lm=labels).label == "card_lost"
    rows_of_bools = [row | {"label": row["label"] == "hours"} for row in rows()]
    bools = NativeDecisions.fit("text -> label: bool", rows_of_bools, threads=1)
    yes = dspy.Signature("text -> label: bool").with_updated_fields("label", desc="it")
    assert dspy.Predict(yes)(text="when do you open", lm=bools).label is True
    weird = NativeDecisions.fit("text -> label: Literal[True, False]", rows_of_bools, threads=1)
    assert dspy.Predict(yes)(text="when do you open", lm=weird).label is True
    both = dspy.Signature("text -> label: Literal[True, False]").with_updated_fields("label", desc="it")
    for each in (weird, bools):
        assert dspy.Predict(both)(text="when do you open", lm=each).label is True


def test_typed_options() -> None:
    data = [{"text": f"{'many' if i % 3 else 'few'} {i}", "n": 10 if i % 3 else None} for i in range(60)]
    signature = dspy.Signature("text -> n: Literal[10, None]").with_updated_fields("n", desc="how many")
    client = NativeDecisions.fit(signature, data, threads=1)
    assert dspy.Predict(signature)(text="few", lm=client).n is None
    assert dspy.Predict(signature)(text="many", lm=client).n == 10


def test_a_score_by_its_descriptions(client: NativeDecisions) -> None:
    data = [row | {"haste": LEVELS[row["haste"]]} for row in labelled()]
    by_name = dspex.fit(f"text -> haste: Literal{list(LEVELS)}", data, threads=1)

    class Soon(dspy.Signature):
        """How soon."""

        text: str = dspy.InputField()
        haste: Haste = dspy.OutputField(desc="how soon")  # type: ignore[valid-type]

    answer = dspy.Predict(Soon)(text=SURE, lm=NativeDecisions(by_name))
    assert answer.haste.level == 2


def test_labels_of_every_form() -> None:
    said = {
        "kind": Kind(value="refund", confidence=1.0),
        "lost": Noul(value=False, confidence=1.0),
        "haste": Haste(value=1.0, confidence=1.0),
    }
    data: list[Any] = [dspy.Example(**row) for row in labelled() if row["kind"] != "refund"]
    data += [row | said for row in labelled() if row["kind"] == "refund"]
    client = NativeDecisions.fit(Triage, data, threads=1)
    answer = dspy.Predict(Triage)(text="charged twice", lm=client)
    assert (answer.kind.value, bool(answer.lost), answer.haste.level) == ("refund", False, 1)
    columns = {name: [row[name] for row in labelled()] for name in ("text", "kind", "lost", "haste")}
    assert NativeDecisions.fit(Triage, columns, threads=1).program.info()["data"]["rows"] == 90
    with pytest.raises(InputError, match=r"7 is no level of this Score.*'haste', row 1"):
        NativeDecisions.fit(Triage, [labelled()[0], labelled()[1] | {"haste": 7}])
    with pytest.raises(InputError, match="the example is a int"):
        NativeDecisions.fit(Triage, [3])
    with pytest.raises(SignatureError, match="answer"):
        NativeDecisions.fit("text -> answer: dict[str, int]", [])


def test_thresholds_weights_and_evidence(client: NativeDecisions) -> None:
    predictor = dspy.Predict(Triage)
    predictor.fields = {"lost": {"threshold": 1.0}, "kind": {"weights": {"card_lost": 0.0}}}
    with record_evidence() as log:
        answer = predictor(text=SURE, lm=client)
    assert not answer.lost
    assert answer.kind.value != "card_lost"
    assert {(caller, name) for caller, name, _ in log} == {(predictor, n) for n in ("kind", "lost", "haste")}


def test_evaluate_and_reanchor(client: NativeDecisions) -> None:
    def metric(gold: Any, said: Any, trace: Any = None) -> float:
        return float(bool(said.lost) == gold.lost)

    devset = [dspy.Example(**row).with_inputs("text") for row in labelled()][::4]
    predictor = dspy.Predict(Triage)
    predictor.fields = {"lost": {"threshold": 1.0}}  # says no to everything, until it is fitted
    with dspy.context(lm=client, num_threads=2):
        before = dspy.Evaluate(devset=devset, metric=metric)(predictor).score
        best = ReAnchor(metric).compile(predictor, trainset=devset)
        assert dspy.Evaluate(devset=devset, metric=metric)(best).score == 100.0 > before
    assert 0 < best.fields["lost"]["threshold"] < 1


def test_history_and_callbacks(labels: NativeDecisions) -> None:
    seen: list[Any] = []

    class Log(BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(sorted(inputs))

        def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append(outputs)

    client = labels.copy(callbacks=[Log()])
    answers = ask(client)
    assert seen == [["questions", "state"], answers]
    (entry,) = client.history
    assert json.loads(entry["outputs"][0])["label"] == answers["label"]
    assert entry["response"]["model"] == client.model == "dspex/labels"
    out = io.StringIO()
    client.inspect_history(file=out)
    assert SURE in out.getvalue()
    with dspy.context(disable_history=True):
        ask(client)
    assert len(client.history) == 1
    with dspy.context(track_usage=True):
        signature = dspy.Signature(TASK).with_updated_fields("label", desc="the intent")
        assert dspy.Predict(signature)(text=SURE, lm=client).get_lm_usage() == {}


def test_copies(labels: NativeDecisions) -> None:
    client = labels.copy()
    ask(client)
    for twin in (client.copy(), copy.deepcopy(client)):
        assert twin.program is client.program
        assert twin.history == []
        assert ask(twin) == ask(client)
    with pytest.raises(ConfigError, match="no setting 'temperature'"):
        client.copy(temperature=1.0)
    predictor = dspy.Predict(dspy.Signature(TASK).with_updated_fields("label", desc="it"))
    predictor.lm = client
    assert predictor.deepcopy().lm.program is client.program


def test_state(labels: NativeDecisions, tmp_path: Any) -> None:
    state = json.loads(json.dumps(labels.dump_state()))
    with pytest.raises(ValueError, match="Refusing to import"):
        dspy.BaseLM.load_state(state)
    again = dspy.BaseLM.load_state(state, allow_custom_lm_class=True)
    assert ask(again) == ask(labels)
    with pytest.raises(ModelFileError):
        NativeDecisions.load_state({"program": None})
    labels.program.save(tmp_path / "labels.dspex")
    assert ask(NativeDecisions(tmp_path / "labels.dspex")) == ask(labels)
    with pytest.raises(ConfigError, match=r"not a dspex\.Program"):
        NativeDecisions(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criteria": {"a": None, "b": None}}, r"asks for \['a', 'b'\], it knows \['card_lost'"),
        ({"type": "noul", "criteria": None}, "DSPy asks for a bool"),
        ({"type": "score", "criteria": ["low", "high"]}, r"asks for \['high', 'low'\]"),
    ],
)
def test_questions_of_another_kind(labels: NativeDecisions, changes: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message) as caught:
        ask(labels, **changes)
    assert (caught.value.field, caught.value.program) == ("label", "labels")


def test_what_it_does_not_answer(client: NativeDecisions, labels: NativeDecisions) -> None:
    with pytest.raises(SignatureError, match="does not answer 'kind'"):
        dspy.Predict(Triage)(text=SURE, lm=labels)
    with pytest.raises(SignatureError, match="does not answer 'kind'"):
        asyncio.run(dspy.Predict(Triage).acall(text=SURE, lm=labels))
    number = dspex.fit("text -> label: float", [{"text": f"a{i}", "label": i} for i in range(20)], threads=1)
    with pytest.raises(SignatureError, match="of kind float, not one class of several"):
        ask(NativeDecisions(number))
    with pytest.raises(InputError, match="the text is empty"):
        dspy.Predict(Triage)(text="", lm=client)
    with pytest.raises(ValueError, match="Unsupported System One output"):
        dspy.Predict("text -> answer")(text=SURE, lm=client)
