# What the other compiled modules may know of the predictor.

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t

from native cimport AnswerHead, Answerer, ModelView, TextView

cdef extern from "Python.h":
    unsigned int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    MAX_TEXTS = 16          # text inputs whose views fit on the stack


cdef class _Answers:
    cdef readonly tuple names        # output names, in order
    cdef readonly tuple kinds        # "choice", "binary", "multilabel", "number"
    cdef tuple classes               # a tuple of values, or None for numbers
    cdef tuple is_int
    cdef dict position               # name -> head
    cdef bint has_score              # an output is named so
    cdef AnswerHead* heads
    cdef size_t count
    cdef size_t columns

    cdef object value(self, size_t h, const float* values, const int32_t* picks)
    cdef dict probabilities(self, size_t h, const float* values)


cdef class Result:
    cdef _Answers answers
    cdef float* data             # native: [columns] values, one int32 pick a head, confidence, score (2: none); else NULL
    cdef dict values_            # built on first use from a native answer
    cdef dict probabilities_
    cdef object confidence_
    cdef object score_, familiarity_
    cdef readonly object route
    cdef readonly object usage
    cdef object __weakref__

    cdef dict _values(self)


cdef class InputReader:
    cdef tuple names
    cdef uint8_t* kinds
    cdef size_t* widths
    cdef Py_ssize_t n_inputs
    cdef size_t n_texts
    cdef const float* dense_mean     # [dense width]
    cdef const float* dense_scale

    # Reads one mapping; False when it does not fit the signature. The texts read so far are kept alive by
    # owners [n_texts], whether or not it fits: release_texts. dense: [dense width], standardised.
    cdef bint _read(self, object inputs, TextView* texts, PyObject** owners, float* dense) except -1
    cdef bint _read_number(self, object value, uint8_t kind, float* dense, size_t at) except -1
    cdef bint _put(self, double x, float* dense, size_t at) noexcept
    cdef bint _read_vector(self, object value, float* dense, size_t at, size_t width) except -1
    cdef _bind_inputs(self, inputs)


cdef class Predictor(InputReader):
    cdef ModelView view
    cdef _Answers answers
    cdef Answerer answerer           # over the two
    cdef readonly object route
    cdef tuple keep                  # owners of the buffers

    # A result with a copy of the floats of an answer.
    cdef Result _result(self, const float* answer)
    cdef Result _predict(self, object inputs, object row)
    cdef object _predict_or_error(self, object inputs, Py_ssize_t row, bint collect)

    cdef bint _score(self, const Answerer* answerer, object inputs, float* sums, float* dense, float* out) except -1
    cdef list _inside(self, inputs)
    cdef list _visited(self, str text, size_t field, bint unfold)
    cdef _bind_arrays(self, arrays)
    cdef _bind_gate(self, arrays)
    cdef _require_bound(self)


cdef void release_texts(PyObject** owners, size_t count) noexcept
