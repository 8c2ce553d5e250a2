"""scikit-learn: TF-IDF word + character union with ridge regression, for scores."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.peers._union import UnionPeer, union_features
from benchmarks.peers.base import Settings


class UnionRidge(UnionPeer):
    name = "sklearn_union_ridge"
    tasks = frozenset({"score"})
    import_statement = "import sklearn.pipeline, sklearn.feature_extraction.text, sklearn.linear_model"
    defaults: ClassVar[Settings] = {"analyzer": "char_wb", "alpha": 0.3}
    grid = tuple(
        {"analyzer": analyzer, "alpha": alpha}
        for analyzer in ("char_wb", "char")
        for alpha in (0.1, 0.3, 1.0, 2.0, 4.0)
    )

    def make(self) -> Any:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline

        features = union_features(self.settings["analyzer"])
        return make_pipeline(features, Ridge(alpha=self.settings["alpha"], solver="sparse_cg"))


PEER = UnionRidge
