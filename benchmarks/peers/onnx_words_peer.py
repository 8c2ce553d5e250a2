"""An ONNX export of TF-IDF word 1-2 grams with logistic regression; the exporter has no `char_wb`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers.base import Floats, Peer, Settings, labels_of, texts_of


class OnnxWords(Peer):
    name = "onnx_words"
    requires = ("skl2onnx", "onnxruntime", "sklearn")
    import_statement = "import onnxruntime"
    defaults: ClassVar[Settings] = {"C": 30.0}
    grid = tuple({"C": c} for c in (3.0, 10.0, 30.0, 100.0))
    folds_if_large = 1
    timed_texts = 200

    def fit(self, rows: Sequence[Row]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        # The exporter knows token patterns without look-around only.
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern="[a-zA-Z0-9_]+")
        model = LogisticRegression(C=self.settings["C"], tol=1e-5, max_iter=2000)
        index = {name: i for i, name in enumerate(self.classes)}
        pipeline = make_pipeline(words, model)
        pipeline.fit(texts_of(rows), [index[label] for label in labels_of(rows)])
        self._export(pipeline)

    def _export(self, pipeline: Any) -> None:
        import onnxruntime
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import StringTensorType
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        graph = convert_sklearn(
            pipeline,
            initial_types=[("text", StringTensorType([None, 1]))],
            # The exporter's own locale, en_US, is missing on many servers.
            options={TfidfVectorizer: {"locale": "C"}, LogisticRegression: {"zipmap": False}},
        )
        self.graph = graph.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        array = np.array([[inputs["text"]]], dtype=object)
        return self.classes[int(self.session.run(self.outputs[:1], {"text": array})[0][0])]

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        array = np.array(texts, dtype=object).reshape(-1, 1)
        return [self.classes[i] for i in self.session.run(self.outputs[:1], {"text": array})[0]]

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        array = np.array(texts, dtype=object).reshape(-1, 1)
        return np.asarray(self.session.run(self.outputs[1:2], {"text": array})[0], dtype=np.float64)

    def model_bytes(self) -> int | None:
        return len(self.graph)


PEER = OnnxWords
