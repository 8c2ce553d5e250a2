# Part of _core.pyx: what a call takes in.

cdef enum:
    TEXT = 0
    NUMBER = 1
    INTEGER = 2
    BOOLEAN = 3
    VECTOR = 4

_INPUT_KINDS = {"text": TEXT, "float": NUMBER, "int": INTEGER, "bool": BOOLEAN, "vector": VECTOR}


cdef class InputReader:
    """Reads mappings of inputs into views of texts and standardised numbers."""

    def __cinit__(self, *args, **kwargs):
        self.kinds = NULL
        self.widths = NULL

    def __dealloc__(self):
        PyMem_Free(self.kinds)
        PyMem_Free(self.widths)

    cdef _bind_inputs(self, inputs):
        self.n_inputs = len(inputs)
        self.names = tuple(name for name, _, _ in inputs)
        PyMem_Free(self.kinds)
        PyMem_Free(self.widths)
        self.kinds = <uint8_t*>PyMem_Malloc(max(1, self.n_inputs))
        self.widths = <size_t*>PyMem_Malloc(max(1, self.n_inputs) * sizeof(size_t))
        if self.kinds == NULL or self.widths == NULL:
            raise MemoryError
        for i, (_, kind, width) in enumerate(inputs):
            self.kinds[i] = _INPUT_KINDS[kind]
            self.widths[i] = 0 if kind == "text" else width
        self.n_texts = sum(kind == "text" for _, kind, _ in inputs)

    cdef bint _read(self, object inputs, TextView* texts, PyObject** owners, float* dense) except -1:
        cdef Py_ssize_t i
        cdef size_t at = 0, text_field = 0
        cdef object value
        cdef PyObject* borrowed
        if not PyDict_Check(inputs):
            if not isinstance(inputs, Mapping):
                return False
            inputs = dict(inputs)
        if PyDict_Size(inputs) != self.n_inputs:
            return False
        for i in range(self.n_inputs):
            borrowed = PyDict_GetItemWithError(inputs, self.names[i])
            if borrowed == NULL:
                return False
            value = <object>borrowed
            if self.kinds[i] == TEXT:
                if not PyUnicode_Check(value):
                    return False
                Py_INCREF(value)
                owners[text_field] = borrowed
                texts[text_field].data = PyUnicode_DATA(value)
                texts[text_field].size = PyUnicode_GET_LENGTH(value)
                texts[text_field].unit = PyUnicode_KIND(value)
                text_field += 1
            elif self.kinds[i] == VECTOR:
                if not self._read_vector(value, dense, at, self.widths[i]):
                    return False
                at += self.widths[i]
            else:
                if not self._read_number(value, self.kinds[i], dense, at):
                    return False
                at += 1
        return True

    cdef bint _read_number(self, object value, uint8_t kind, float* dense, size_t at) except -1:
        cdef double x
        if value is True or value is False:
            if kind != BOOLEAN:
                return False
            x = 1.0 if value is True else 0.0
        elif kind == NUMBER and PyFloat_Check(value):
            x = PyFloat_AS_DOUBLE(value)
        elif kind != BOOLEAN and PyLong_Check(value):
            try:
                x = PyLong_AsDouble(value)
            except OverflowError:
                return False
        elif kind != BOOLEAN and (hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0):
            if value.dtype.kind not in ("iu" if kind == INTEGER else "iuf"):
                return False
            x = float(value)
        elif kind == BOOLEAN and hasattr(value, "dtype") and value.dtype.kind == "b" and value.ndim == 0:
            x = 1.0 if value else 0.0
        else:
            return False
        return self._put(x, dense, at)

    cdef bint _put(self, double x, float* dense, size_t at) noexcept:
        cdef double z = (x - self.dense_mean[at]) * self.dense_scale[at]
        dense[at] = <float>(z if -1e6 < z < 1e6 else (1e6 if z > 0 else -1e6))
        return isfinite(x)

    cdef bint _read_vector(self, object value, float* dense, size_t at, size_t width) except -1:
        cdef Py_buffer buffer
        cdef size_t j
        cdef bint good = True
        if isinstance(value, (list, tuple)):
            if <size_t>len(value) != width:
                return False
            for j in range(width):
                if not self._read_number(value[j], NUMBER, dense, at + j):
                    return False
            return True
        if not PyObject_CheckBuffer(value):
            return False
        try:
            PyObject_GetBuffer(value, &buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except (BufferError, ValueError):
            return self._read_vector(value.tolist(), dense, at, width) if hasattr(value, "tolist") else False
        try:
            if buffer.ndim != 1 or <size_t>buffer.shape[0] != width or buffer.format == NULL:
                return False
            if buffer.format[0] == c"f" and buffer.itemsize == 4:
                for j in range(width):
                    good = self._put((<float*>buffer.buf)[j], dense, at + j) and good
            elif buffer.format[0] == c"d" and buffer.itemsize == 8:
                for j in range(width):
                    good = self._put((<double*>buffer.buf)[j], dense, at + j) and good
            else:
                return self._read_vector(value.tolist(), dense, at, width) if hasattr(value, "tolist") else False
        finally:
            PyBuffer_Release(&buffer)
        return good


cdef void release_texts(PyObject** owners, size_t count) noexcept:
    cdef size_t i
    for i in range(count):
        if owners[i] != NULL:
            Py_DECREF(<object>owners[i])
            owners[i] = NULL
