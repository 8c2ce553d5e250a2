"""scikit-learn: TF-IDF word + character union with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers._union import UnionPeer, best_temperature, margins, union_features
from benchmarks.peers.base import Settings, texts_of


class UnionLR(UnionPeer):
    name = "sklearn_union_lr"
    tasks = frozenset({"single", "multi"})
    import_statement = "import sklearn.pipeline, sklearn.feature_extraction.text, sklearn.linear_model"
    defaults: ClassVar[Settings] = {"analyzer": "char_wb", "C": 30.0}
    grid = tuple({"C": c} for c in (3.0, 10.0, 30.0, 100.0))
    folds_if_large = 1

    def make(self) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        # float32 rows halve the time of lbfgs; at tol=1e-3 it stops at once on 150 classes.
        features = union_features(self.settings["analyzer"], dtype=np.float32)
        return make_pipeline(features, LogisticRegression(C=self.settings["C"], tol=1e-5, max_iter=2000))

    def calibrate(self, rows: Sequence[Row]) -> None:
        if self.task == "multi":
            super().calibrate(rows)
            return
        # One held-out fifth is enough for one number; three more fits of many classes would take minutes.
        from sklearn.model_selection import StratifiedKFold

        texts, target = texts_of(rows), self.target(rows)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        seen, unseen = next(folds.split(texts, target))
        model = self.make().fit([texts[i] for i in seen], target[seen])
        self.temperature = best_temperature(margins(model, [texts[i] for i in unseen]), target[unseen])


PEER = UnionLR
