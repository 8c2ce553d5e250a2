# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
# distutils: language = c++
"""The hot path: inputs in, one call of the scorer, a result out."""

cimport cython
from cpython.buffer cimport (PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_CheckBuffer,
                             PyObject_GetBuffer)
from cpython.dict cimport PyDict_Check, PyDict_GetItemWithError, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport INFINITY, isfinite
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from collections.abc import Mapping

from dspex.errors import DspexError

include "text_options.pxi"

from native cimport (AnswerHead, Answerer, AnswerKind, Contribution, IndexEntry, TextView, checksum64_c, gate_features, now_ns,
                     row_lanes, row_stride, visit_contributions)

cdef enum:
    MAX_LANES = 1024        # accumulators that fit on the stack; larger models take them from the heap
    GIL_FREE_CHARS = 16384  # texts from here on are scored without the GIL
    INLINE_NS = 20_000      # a batch that takes less is not worth handing out

_ANSWER_KINDS = {"choice": AnswerKind.choice, "binary": AnswerKind.binary, "multilabel": AnswerKind.multilabel,
                 "number": AnswerKind.number}


def checksum64(const uint8_t[::1] data not None) -> int:
    """The 64-bit checksum of a buffer, as checksum.hpp defines it."""
    cdef size_t size = data.shape[0]
    if size == 0:
        return checksum64_c(NULL, 0)
    return checksum64_c(&data[0], size)


include "result.pxi"
include "inputs.pxi"


cdef class Predictor(InputReader):
    """A finished model over its buffers: checks inputs, scores, answers. Thread-safe: nothing is written.

    Args:
        inputs: (name, kind, width) each; kind as in Field.kind, width of a vector.
        heads: mappings with name, kind, columns, classes, threshold, integer.
        arrays: index (uint32 [slots, 2]), rows (uint8 [rows * stride]), bias (float32 [columns]),
            dense (float32 [width, columns]), dense_scale (float32 [2, width]: mean, then 1 / deviation), and gate
            (float32 [3 * heads, features]: weights, lowest and highest values) where one was fitted.
        text: the text options the model was trained with.
        route: what every result carries.

    Raises:
        ValueError: arrays that do not fit each other.
    """

    def _bind(self, inputs, heads, arrays, text, route, floor=-INFINITY):
        self.answers = _Answers(heads)
        self.route = route
        self._bind_inputs(inputs)
        self._bind_arrays(arrays)
        self._bind_gate(arrays)
        self.answerer.floor = floor
        self.view.text = text_options(text)
        self.answerer.model, self.answerer.heads = &self.view, self.answers.heads
        self.answerer.head_count = self.answers.count

    cdef _bind_gate(self, arrays):
        cdef const float[:, ::1] gate
        self.answerer.gate = NULL
        if "gate" not in arrays:
            return
        gate = arrays["gate"]
        if <size_t>gate.shape[0] != 3 * self.answers.count or <size_t>gate.shape[1] != gate_features:
            raise ValueError("the gate does not fit the outputs")
        self.keep += (arrays["gate"],)
        self.answerer.gate = &gate[0, 0]

    @property
    def has_gate(self):
        """Whether results carry a score of a gate that was fitted, and not just their confidence."""
        return self.answerer.gate != NULL

    cdef _bind_arrays(self, arrays):
        cdef const uint32_t[:, ::1] index = arrays["index"]
        cdef const uint8_t[::1] rows = arrays["rows"]
        cdef const float[::1] bias = arrays["bias"]
        cdef const float[:, ::1] dense = arrays["dense"]
        cdef const float[:, ::1] dense_scale = arrays["dense_scale"]
        cdef size_t columns = self.answers.columns
        cdef size_t width = 0
        for i in range(self.n_inputs):
            width += self.widths[i]
        if <size_t>bias.shape[0] != columns or <size_t>dense.shape[1] != columns:
            raise ValueError("the weights do not have one column an answer")
        if <size_t>dense.shape[0] != width or <size_t>dense_scale.shape[1] != width or dense_scale.shape[0] != 2:
            raise ValueError("the dense weights do not fit the inputs")
        if index.shape[1] != 2 or rows.shape[0] % row_stride(columns) != 0:
            raise ValueError("the rows do not fit the index")
        self.keep = (arrays["index"], arrays["rows"], arrays["bias"], arrays["dense"], arrays["dense_scale"])
        self.view.slots, self.view.columns, self.view.dense_width = index.shape[0], columns, width
        self.view.row_count = rows.shape[0] // row_stride(columns)
        self.view.index = <const IndexEntry*>&index[0, 0] if index.shape[0] else NULL
        self.view.rows = &rows[0] if rows.shape[0] else NULL
        self.view.bias = &bias[0]
        self.view.dense = &dense[0, 0] if width else NULL
        self.dense_mean = &dense_scale[0, 0] if width else NULL
        self.dense_scale = &dense_scale[1, 0] if width else NULL
        self.view.validate()

    def _reject(self, inputs, row):
        """Raises the error that says what is wrong with inputs the fast path refused."""
        raise TypeError("inputs do not fit the signature")

    def __call__(self, **inputs):
        return self._predict(inputs, None)

    def predict(self, inputs):
        """Answers one mapping of input names to values.

        Raises:
            InputError: a field is missing, unknown or of the wrong type, or a number is not finite.
        """
        return self._predict(inputs, None)

    def batch(self, rows, *, on_error="raise", progress=None, pool=None):
        """Answers many rows, in order, on all cores: on the pool's workers and the calling thread.

        The first rows are answered at once; only what would take longer than handing it out goes to the pool.

        Args:
            rows: mappings of inputs.
            on_error: "raise" the error of the first row that cannot be answered, and drop the rest; or
                "collect": put each error in its row's place.
            progress: called with the share that is done, in [0, 1], while the batch takes longer than 0.1 s.
            pool: the pool to use; by default the process's own, see `dspex.default_pool`.

        Returns:
            One Result a row; under "collect" an InputError for each row that cannot be answered.

        Raises:
            InputError: with the row that does not fit; no result is returned.
            ConfigError: an unknown `on_error`.
            ResourceError: the pool is closed.
        """
        cdef Py_ssize_t i = 0, count
        cdef bint collect = False
        cdef int64_t begun, spent
        if type(rows) is not list or on_error != "raise":
            rows, collect = self._checked_batch(rows, on_error)
        if pool is not None:
            self._check_pool(pool)
        cdef tuple all_rows = tuple(rows)
        cdef list results = []
        count = len(all_rows)
        begun = now_ns() if count > 1 else 0
        while i < count:
            results.append(self._predict_or_error(all_rows[i], i, collect))
            i += 1
            if i < count and (i & 3) == 1:
                spent = now_ns() - begun
                # What is left takes as long as so far, a row: worth a helper, who takes some time to come?
                if spent > INLINE_NS and spent // i * (count - i) > INLINE_NS:
                    return self._batch_on_pool(all_rows, results, collect, progress, pool)
        return results

    cdef object _predict_or_error(self, object inputs, Py_ssize_t row, bint collect):
        if not collect:
            return self._predict(inputs, row)
        try:
            return self._predict(inputs, row)
        except DspexError as error:
            return error

    def _checked_batch(self, rows, on_error):
        """(rows as a list or tuple, whether errors are collected), or the error that says what is wrong."""
        return list(rows), on_error == "collect"

    def _check_pool(self, pool):
        """Raises the error that says why the pool cannot be used."""

    cdef Result _predict(self, object inputs, object row):
        cdef float stack_sums[MAX_LANES]
        cdef float* sums = stack_sums
        cdef size_t lanes = row_lanes(self.view.columns)
        if lanes + self.view.dense_width > MAX_LANES:
            sums = <float*>PyMem_Malloc((lanes + self.view.dense_width) * sizeof(float))
            if sums == NULL:
                raise MemoryError
        cdef _Answers answers = self.answers
        if answers is None:
            self._require_bound()
        cdef Result result = Result.__new__(Result)
        try:
            result.data = <float*>PyMem_Malloc(self.answerer.answer_floats() * sizeof(float))
            if result.data == NULL:
                raise MemoryError
            if not self._score(&self.answerer, inputs, sums, sums + lanes, result.data):
                self._reject(inputs, row)
                raise AssertionError("refused inputs were not explained")
        finally:
            if sums != stack_sums:
                PyMem_Free(sums)
        result.answers = answers
        result.route = self.route
        return result

    cdef Result _result(self, const float* answer):
        cdef Result result = Result.__new__(Result)
        cdef size_t size = self.answerer.answer_floats() * sizeof(float)
        result.data = <float*>PyMem_Malloc(size)
        if result.data == NULL:
            raise MemoryError
        memcpy(result.data, answer, size)
        result.answers = self.answers
        result.route = self.route
        return result

    cdef bint _score(self, const Answerer* answerer, object inputs, float* sums, float* dense,
                     float* out) except -1:
        """The answer to one mapping; False when it does not fit the signature."""
        cdef TextView stack_texts[MAX_TEXTS]
        cdef PyObject* stack_owners[MAX_TEXTS]
        cdef TextView* texts = stack_texts
        cdef PyObject** owners = stack_owners
        cdef size_t i, units = 0
        cdef bint good
        if self.n_texts > MAX_TEXTS:
            texts = <TextView*>PyMem_Malloc(self.n_texts * (sizeof(TextView) + sizeof(PyObject*)))
            if texts == NULL:
                raise MemoryError
            owners = <PyObject**>(texts + self.n_texts)
        for i in range(self.n_texts):
            owners[i] = NULL
        try:
            good = self._read(inputs, texts, owners, dense)
            if good:
                for i in range(self.n_texts):
                    units += texts[i].size
                if units < GIL_FREE_CHARS:
                    good = answerer.answer(texts, self.n_texts, dense, sums, out)
                else:
                    with nogil:
                        good = answerer.answer(texts, self.n_texts, dense, sums, out)
        finally:
            release_texts(owners, self.n_texts)
            if texts != stack_texts:
                PyMem_Free(texts)
        return good

    cdef _require_bound(self):
        if self.answers is None:
            from dspex.errors import ProgramError
            raise ProgramError("the program is unfitted", hint="Make it with dspex.fit or dspex.load")

    def _logits(self, inputs):
        """The calibrated logits of one mapping, [columns], as a list. Numbers are standardised."""
        return self._inside(inputs)[:self.view.columns]

    def _gate_features(self, inputs):
        """What the gate makes of one mapping: a list of features for each output. Empty without a gate."""
        self._require_bound()
        cdef Answerer asking = self.answerer
        cdef size_t lanes = row_lanes(self.view.columns), h, i
        cdef float[::1] sums = _floats(lanes + self.view.dense_width + 1)
        cdef float[::1] answer = _floats(asking.answer_floats())
        cdef float[::1] found = _floats(asking.head_count * gate_features)
        if asking.gate == NULL:
            return []
        asking.features = &found[0]
        if not self._score(&asking, inputs, &sums[0], &sums[0] + lanes, &answer[0]):
            self._reject(inputs, None)
        return [[found[h * gate_features + i] for i in range(gate_features)] for h in range(asking.head_count)]

    def _dense_values(self, inputs):
        """The standardised numeric inputs of one mapping, as a list."""
        return self._inside(inputs)[self.view.columns:]

    cdef list _inside(self, inputs):
        """Logits, then standardised numbers, of one mapping."""
        self._require_bound()
        cdef Answerer logits_only = self.answerer
        logits_only.head_count = 0
        logits_only.gate = NULL
        cdef size_t lanes = row_lanes(self.view.columns), width = self.view.dense_width
        cdef float[::1] sums = _floats(lanes + width + 1)
        cdef float[::1] logits = _floats(logits_only.answer_floats())
        if not self._score(&logits_only, inputs, &sums[0], &sums[0] + lanes, &logits[0]):
            self._reject(inputs, None)
        return [logits[k] for k in range(self.view.columns)] + [sums[lanes + d] for d in range(width)]

    def _contributions(self, str text not None, size_t field):
        """(kind, feature text, norm2, weights) of every row one text adds, in order."""
        return [each[:4] for each in self._visited(text, field, False)]

    cdef list _visited(self, str text, size_t field, bint unfold):
        self._require_bound()
        out = []
        cdef _Collector collector = _Collector(out, self.view.columns)
        visit_contributions(self.view, field, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text),
                            PyUnicode_KIND(text), unfold, _collect, <void*>collector)
        if collector.error is not None:
            raise collector.error
        return out

    def _rows_of(self, str text not None, size_t field, bint unfold=False):
        """The rows of weights that one text reads, in order, as uint32 in bytes; for `_floor`.

        With `unfold`, one row for each feature: also for the n-grams that lie folded in their word's row.
        """
        from array import array
        rows = array("I", [each[4] for each in self._visited(text, field, unfold)])
        return rows.tobytes()

    def _floor(self, dict inputs not None, str name not None, bytes rows not None):
        """What no such model can do without: the call itself, one pass over the text's bytes, and one cache
        line a feature, in the order of the features. Benchmarks measure `predict` against it.
        """
        cdef Result result = Result.__new__(Result)
        cdef str text = inputs[name]
        cdef const uint8_t* p = <const uint8_t*>PyUnicode_DATA(text)
        cdef const uint32_t* row = <const uint32_t*><const char*>rows
        cdef size_t size = PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text), i
        cdef size_t stride = row_stride(self.view.columns), count = len(rows) // sizeof(uint32_t)
        cdef uint8_t seen = 0
        for i in range(size):
            seen ^= p[i]
        for i in range(count):
            seen ^= self.view.rows[row[i] * stride]
        result.data = <float*>PyMem_Malloc(self.answers.columns * sizeof(float) + sizeof(int32_t))
        if result.data == NULL:
            raise MemoryError
        result.data[0] = seen
        result.answers = self.answers
        result.route = self.route
        return result

    @property
    def _bytes(self):
        return self.view.slots * sizeof(IndexEntry) + self.view.row_count * row_stride(self.view.columns)


def _floats(size_t n):
    from array import array
    return array("f", bytes(4 * n))


cdef class _Collector:
    cdef list out
    cdef size_t columns
    cdef object error

    def __init__(self, out, columns):
        self.out = out
        self.columns = columns


cdef void _collect(void* context, const Contribution& c) noexcept with gil:
    cdef _Collector collector = <_Collector>context
    try:
        text = c.text[:c.bytes].decode("utf-8", "surrogatepass")
        if c.kind == 1 or c.kind == 2:
            first = c.first[:c.first_bytes].decode("utf-8", "surrogatepass")
            text = f"{first} {text}" if c.kind == 1 else f"{first} * {text}"
        kind = ("word", "bigram", "skipgram", "ngram")[c.kind]
        weights = [c.weights[k] for k in range(collector.columns)]
        collector.out.append((kind, text, c.norm2, weights, c.row))
    except Exception as error:
        collector.error = error
