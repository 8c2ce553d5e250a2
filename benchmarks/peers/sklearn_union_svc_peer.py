"""scikit-learn: TF-IDF word + character union with a linear SVM."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.peers._union import UnionPeer, union_features
from benchmarks.peers.base import Settings


class UnionSVC(UnionPeer):
    name = "sklearn_union_svc"
    tasks = frozenset({"single", "multi"})
    import_statement = "import sklearn.pipeline, sklearn.feature_extraction.text, sklearn.svm"
    defaults: ClassVar[Settings] = {"analyzer": "char_wb", "C": 1.0}
    grid = tuple(
        {"analyzer": analyzer, "C": c} for analyzer in ("char_wb", "char") for c in (0.1, 0.3, 1.0, 3.0)
    )

    def make(self) -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        features = union_features(self.settings["analyzer"])
        return make_pipeline(features, LinearSVC(C=self.settings["C"]))


PEER = UnionSVC
