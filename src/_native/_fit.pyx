# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
# distutils: language = c++
"""Training: texts and targets in, the arrays of a finished model out."""

from cpython.exc cimport PyErr_CheckSignals
from cython.operator cimport dereference
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.memory cimport unique_ptr, make_unique
from libcpp.utility cimport move
from libcpp.vector cimport vector

import numpy as np

include "text_options.pxi"

from native cimport (AnswerHead, AnswerKind, Corpus, CorpusOptions, DenseView, FloatModel, HeadKind, HeadSpec,
                     IndexEntry, Learner, Loss, ModelView, PackedModel, RefineHead, Refiner, RowEvidence, Standing,
                     TrainOptions, Trainer, answer_head, fold_model, gate_log_odds, pack_model, row_stride,
                     standing)

cdef extern from "Python.h":
    unsigned int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef struct TextRef:
    const void* data
    size_t size
    unsigned int unit

cdef enum:
    CHUNK = 4096   # rows between two looks at Ctrl-C
    EVIDENCE = 9   # floats of a RowEvidence
    GATE_FEATURES = 16

_LOSSES = {"hinge": Loss.hinge, "squared": Loss.squared, "logistic": Loss.logistic, "softmax": Loss.softmax}
_KINDS = {"choice": AnswerKind.choice, "binary": AnswerKind.binary, "multilabel": AnswerKind.multilabel,
          "number": AnswerKind.number}
_HEADS = {"softmax": HeadKind.softmax, "sigmoid": HeadKind.sigmoid, "number": HeadKind.number}


cdef vector[float] _vector(const float[::1] values):
    cdef vector[float] out
    out.resize(values.shape[0])
    if values.shape[0]:
        memcpy(out.data(), &values[0], values.shape[0] * sizeof(float))
    return out


cdef vector[uint8_t] _bytes(const uint8_t[::1] values):
    cdef vector[uint8_t] out
    out.resize(values.shape[0])
    if values.shape[0]:
        memcpy(out.data(), &values[0], values.shape[0])
    return out


cdef object _array(const void* data, size_t count, dtype):
    out = np.empty(count, dtype=dtype)
    cdef uint8_t[::1] view
    if count:
        view = out.view(np.uint8)
        memcpy(&view[0], data, view.shape[0])
    return out


cdef vector[TextRef] _text_refs(list texts) except *:
    """Views of the strings, field after field; they live as long as the lists hold them."""
    cdef vector[TextRef] refs
    cdef TextRef ref
    for column in texts:
        for text in column:
            ref.data, ref.size, ref.unit = PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text), PyUnicode_KIND(text)
            refs.push_back(ref)
    return refs


cdef void _build_corpus(Corpus* corpus, const vector[TextRef]& refs, size_t fields, size_t rows) except *:
    cdef size_t start, stop, row, field
    cdef TextRef t
    cdef int step
    for step in range(2):
        start = 0
        while start < rows:
            stop = min(start + CHUNK, rows)
            with nogil:
                for row in range(start, stop):
                    for field in range(fields):
                        t = refs[field * rows + row]
                        if step == 0:
                            corpus.count_text(<uint32_t>row, field, t.data, t.size, t.unit)
                        else:
                            corpus.add_text(field, t.data, t.size, t.unit)
                    if step == 1:
                        corpus.end_row()
            start = stop
            PyErr_CheckSignals()
        if step == 0:
            with nogil:
                corpus.finish_count(rows)
    with nogil:
        corpus.finish()


cdef vector[HeadSpec] _head_specs(list heads) except *:
    cdef vector[HeadSpec] specs
    cdef HeadSpec spec
    cdef Learner learner
    for head in heads:
        spec.kind = <HeadKind><int>_HEADS[head["kind"]]
        spec.columns = head["columns"]
        spec.targets = _vector(np.ascontiguousarray(head["targets"], dtype=np.float32).ravel())
        spec.weights = _vector(np.ascontiguousarray(head["weights"], dtype=np.float32))
        spec.learners.clear()
        for loss, c in head["learners"]:
            learner.loss, learner.c = <Loss><int>_LOSSES[loss], c
            spec.learners.push_back(learner)
        spec.groups = head.get("groups", 0)
        spec.group_of_row = _bytes(head["group_of_row"]) if spec.groups else vector[uint8_t]()
        specs.push_back(spec)
    return specs


cdef void _run(Trainer* trainer, progress) except *:
    """Waits for the trainer; Ctrl-C, or an error in `progress`, stops it and leaves nothing behind."""
    cdef bint ended = False
    with nogil:
        trainer.start()
    try:
        while not ended:
            with nogil:
                ended = trainer.wait_for(0.05)
            PyErr_CheckSignals()
            if progress is not None:
                progress(1.0 if ended else trainer.progress())
    except BaseException:
        trainer.cancel()
        with nogil:
            while not trainer.wait_for(1.0):
                pass
        raise


cdef object _held_out(Trainer* trainer, size_t head, size_t rows, size_t columns, bint novel=False):
    """[rows, columns] logits of the stacked models that did not see the row; of novel ones, its class."""
    cdef size_t m
    cdef const float* data
    out = np.full((rows, columns), trainer.fits[head].stack.bias, dtype=np.float32)
    for m in range(trainer.fits[head].held_out.size()):
        data = trainer.fits[head].novel[m].data() if novel else trainer.fits[head].held_out[m].data()
        scores = _array(data, rows * columns, np.float32)
        out += np.float32(trainer.fits[head].stack.coefficient[m]) * scores.reshape(rows, columns)
    return out


cdef dict _packed(size_t columns, const FloatModel& model):
    cdef PackedModel packed
    with nogil:
        packed = pack_model(columns, model.hashes, model.norm2, model.weights)
    return {
        "index": _array(packed.index.data(), 2 * packed.index.size(), np.uint32).reshape(-1, 2),
        "rows": _array(packed.rows.data(), packed.rows.size(), np.uint8),
        "hashes": _array(model.hashes.data(), model.hashes.size(), np.uint64),
        "bias": _array(model.bias.data(), columns, np.float32),
        "dense": _array(model.dense.data(), model.dense.size(), np.float32).reshape(-1, columns),
    }


def train(list texts, const float[:, ::1] dense not None, const uint8_t[::1] folds not None, list heads not None,
          dict options not None, progress=None):
    """Trains one model and packs it.

    Args:
        texts: one list of strings a text field, each as long as there are rows.
        dense: [rows, width] standardised numbers; the last column is all 1, for the bias.
        folds: [rows] fold of each row, below options["folds"].
        heads: mappings with kind, columns, targets [rows, columns], weights [rows], learners [(loss, c)]; perhaps
            groups and group_of_row (uint8 [rows]): groups of classes that models are trained without.
        options: text (a mapping), folds, threads, seed, max_epochs, tolerance, min_pair_df, max_units; and
            evidence, whether what a gate looks at is wanted.
        progress: called with a share in [0, 1] about 20 times a second.

    Returns:
        (arrays, held_out, info): the model's arrays, one [rows, columns] array of out-of-fold logits a head,
        and a mapping of diagnostics. With evidence, its "evidence" has a mapping a head: `held_out` [rows, 9] as
        `gate_features` takes it, and where there are groups `novel` [rows, columns] logits and `novel_evidence`.

    Raises:
        MemoryError: the vocabulary does not fit.
    """
    cdef size_t rows = folds.shape[0], fields = len(texts), h, m
    cdef CorpusOptions corpus_options
    corpus_options.text = text_options(options["text"])
    corpus_options.min_pair_df, corpus_options.max_units = options["min_pair_df"], options["max_units"]
    cdef vector[uint8_t] fold_of_row
    fold_of_row.resize(rows)
    memcpy(fold_of_row.data(), &folds[0], rows)
    cdef unique_ptr[Corpus] corpus = make_unique[Corpus](corpus_options)
    cdef vector[TextRef] refs = _text_refs(texts)
    _build_corpus(corpus.get(), refs, fields, rows)

    cdef DenseView view
    view.values, view.width = &dense[0, 0], dense.shape[1]
    cdef vector[HeadSpec] specs = _head_specs(heads)
    cdef TrainOptions train_options
    train_options.folds, train_options.threads = options["folds"], options["threads"]
    train_options.seed, train_options.max_epochs = options["seed"], options["max_epochs"]
    train_options.tolerance, train_options.evidence = options["tolerance"], options.get("evidence", False)
    cdef unique_ptr[Trainer] trainer = make_unique[Trainer](dereference(corpus), view, fold_of_row, specs,
                                                            train_options)
    _run(trainer.get(), progress)

    cdef FloatModel model
    with nogil:
        model = fold_model(dereference(corpus), view.width, specs, dereference(trainer).fits)
    arrays = _packed(model.columns, model)
    held_out = [_held_out(trainer.get(), h, rows, specs[h].columns) for h in range(specs.size())]
    info = {
        "units": dereference(corpus).units(),
        "features": dereference(corpus).features(),
        "heads": [
            {"coefficients": list(dereference(trainer).fits[h].stack.coefficient),
             "bias": dereference(trainer).fits[h].stack.bias,
             "epochs": list(dereference(trainer).fits[h].epochs)}
            for h in range(specs.size())
        ],
    }
    if train_options.evidence:
        info["evidence"] = [_evidence(trainer.get(), h, rows, specs[h].columns) for h in range(specs.size())]
    return arrays, held_out, info


cdef object _evidence_array(const vector[RowEvidence]& rows):
    return _array(rows.data(), EVIDENCE * rows.size(), np.float32).reshape(-1, EVIDENCE)


cdef dict _evidence(Trainer* trainer, size_t head, size_t rows, size_t columns):
    out = {"held_out": _evidence_array(trainer.fits[head].evidence)}
    if not trainer.fits[head].novel.empty():
        out["novel"] = _held_out(trainer, head, rows, columns, True)
        out["novel_evidence"] = _evidence_array(trainer.fits[head].novel_evidence)
    return out


def gate_features(head not None, const float[:, ::1] logits not None, const float[:, ::1] evidence not None):
    """What a call's gate makes of the logits of one head.

    Args:
        head: a mapping with kind, columns and, for two classes and several labels, threshold.
        logits: [rows, columns], calibrated.
        evidence: [rows, 9]: what speaks for the answer, the largest part of it, the sum of squares, how many rows of
            weights speak for it, how many there are; known words, unknown words, known pairs, unknown pairs.

    Returns:
        [rows, 16] features; the first is 1.
    """
    cdef size_t rows = logits.shape[0], columns = head["columns"], i
    if <size_t>logits.shape[1] != columns or evidence.shape[1] != EVIDENCE or <size_t>evidence.shape[0] != rows:
        raise ValueError("logits and evidence do not fit the head")
    cdef AnswerHead answer
    answer.kind = <AnswerKind><int>_KINDS[head["kind"]]
    answer.first, answer.columns, answer.threshold = 0, <uint32_t>columns, head.get("threshold", 0.5)
    values = np.array(logits)
    out = np.empty((rows, GATE_FEATURES), np.float32)
    cdef float[:, ::1] value = values, feature = out
    cdef float[::1] no_gate = np.zeros(3 * GATE_FEATURES, np.float32)
    cdef const RowEvidence* row
    cdef Standing at
    cdef float confidence
    cdef int32_t pick = 0
    for i in range(rows):
        row = <const RowEvidence*>&evidence[i, 0]
        at = standing(answer, &value[i, 0])
        confidence = answer_head(answer, &at, &value[i, 0], pick)
        gate_log_odds(&no_gate[0], at, confidence, row.evidence, row.familiar, &feature[i, 0])
    return out


def refine(arrays not None, dict text not None, list texts not None, const float[:, ::1] dense not None,
           list heads not None, size_t trained_rows, float c, uint64_t seed):
    """The arrays of a model after new examples.

    Args:
        arrays: of the model; its index, rows and sizes have been checked by a Predictor.
        text: its text options.
        texts: one list of strings a text field.
        dense: [rows, dense width + 1] standardised numbers, then the constant 1.
        heads: mappings with loss, columns, targets [rows, columns] (numbers standardised), weights [rows].
        trained_rows: rows the model was fitted on.
        c: how much a new example may move the model.
    """
    cdef const uint32_t[:, ::1] index = arrays["index"]
    cdef const uint8_t[::1] rows = arrays["rows"]
    cdef const uint64_t[::1] hashes = arrays["hashes"]
    cdef const float[::1] bias = arrays["bias"]
    cdef const float[:, ::1] weights = arrays["dense"]
    cdef size_t count = dense.shape[0], fields = len(texts), row, field
    cdef ModelView view
    view.index, view.slots = <const IndexEntry*>&index[0, 0], index.shape[0]
    view.columns, view.dense_width = bias.shape[0], weights.shape[0]
    view.rows = &rows[0] if rows.shape[0] else NULL
    view.row_count = rows.shape[0] // row_stride(view.columns)
    view.bias, view.dense = &bias[0], (&weights[0, 0] if view.dense_width else NULL)
    view.text = text_options(text)
    if <size_t>hashes.shape[0] != view.row_count:
        raise ValueError("there is not one hash a row")
    cdef vector[TextRef] refs = _text_refs(texts)
    cdef vector[RefineHead] specs
    cdef RefineHead spec
    for head in heads:
        spec.loss = <Loss><int>_LOSSES[head["loss"]]
        spec.columns = head["columns"]
        spec.targets = _vector(np.ascontiguousarray(head["targets"], dtype=np.float32).ravel())
        spec.weights = _vector(np.ascontiguousarray(head["weights"], dtype=np.float32))
        specs.push_back(spec)
    cdef DenseView dense_view
    dense_view.values, dense_view.width = &dense[0, 0], dense.shape[1]
    cdef unique_ptr[Refiner] refiner = make_unique[Refiner](view, &hashes[0] if view.row_count else NULL,
                                                            trained_rows)
    cdef TextRef t
    cdef FloatModel model
    with nogil:
        for row in range(count):
            for field in range(fields):
                t = refs[field * count + row]
                dereference(refiner).add_text(field, t.data, t.size, t.unit)
            dereference(refiner).end_row()
        model = dereference(refiner).run(specs, dense_view, c, seed)
    return _packed(model.columns, model)
