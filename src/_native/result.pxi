# Part of _core.pyx: what a call gives back.

cdef class _Answers:
    """How a model's columns become the values of its outputs. Shared by all results of one predictor."""

    def __cinit__(self, heads):
        self.count = len(heads)
        self.heads = <AnswerHead*>PyMem_Malloc(max(1, self.count) * sizeof(AnswerHead))
        if self.heads == NULL:
            raise MemoryError
        self.names = tuple(h["name"] for h in heads)
        self.kinds = tuple(h["kind"] for h in heads)
        self.classes = tuple(None if h.get("classes") is None else tuple(h["classes"]) for h in heads)
        self.is_int = tuple(bool(h.get("integer")) for h in heads)
        self.position = {name: i for i, name in enumerate(self.names)}
        self.has_score = "score" in self.position
        self.columns = 0
        for i, h in enumerate(heads):
            self.heads[i].kind = <AnswerKind><int>_ANSWER_KINDS[h["kind"]]
            self.heads[i].first = <uint32_t>self.columns
            self.heads[i].columns = h["columns"]
            self.heads[i].threshold = h.get("threshold", 0.5)
            self.heads[i].scale, self.heads[i].offset = h.get("scale", 1.0), h.get("offset", 0.0)
            self.heads[i].low, self.heads[i].high = h.get("low", -INFINITY), h.get("high", INFINITY)
            self.columns += self.heads[i].columns

    def __dealloc__(self):
        PyMem_Free(self.heads)

    cdef object value(self, size_t h, const float* values, const int32_t* picks):
        cdef AnswerHead head = self.heads[h]
        cdef tuple classes = self.classes[h]
        if head.kind == AnswerKind.choice or head.kind == AnswerKind.binary:
            return classes[picks[h]]
        if head.kind == AnswerKind.multilabel:
            return [classes[k] for k in range(head.columns) if values[head.first + k] >= head.threshold]
        cdef double number = min(max(head.offset + head.scale * values[head.first], head.low), head.high)
        return round(number) if self.is_int[h] else number

    cdef dict probabilities(self, size_t h, const float* values):
        cdef AnswerHead head = self.heads[h]
        cdef tuple classes = self.classes[h]
        if head.kind == AnswerKind.number:
            return None
        if head.kind == AnswerKind.binary:
            return {classes[0]: 1.0 - <double>values[head.first], classes[1]: <double>values[head.first]}
        return {classes[k]: <double>values[head.first + k] for k in range(head.columns)}


# Untracked by the garbage collector, which would walk every result of a batch: answers hold no cycles.
@cython.no_gc
@cython.freelist(64)
@cython.collection_type("mapping")
cdef class Result:
    """The answer to one call: a read-only mapping from output names to values.

    ``r.label`` and ``r["label"]`` give a value, ``r.probabilities("label")`` the calibrated probability of
    every class, ``r.confidence`` that of the whole answer: the smallest over the enumerable outputs, None if
    there are none. ``r.gate_score``, and ``r.score`` where no output is named so, says how
    likely the answer is the teacher's, new kinds of input considered: by the program's gate where one was fitted, else
    it is the confidence. ``r.route`` tells who answered, ``r.usage`` what it cost where that is known.
    An output named like one of these is still reached by ``r["confidence"]``.

    Args:
        values: output name -> value.
        route: a Route.
        probabilities: output name -> {class: probability in [0, 1]}.
        confidence: in [0, 1], or None.
        usage: tokens and cost, or None.
        score: in [0, 1], or None; the confidence when left out.
        familiarity: a number, or None.
    """

    def __init__(self, values, *, route, probabilities=None, confidence=None, usage=None, score=...,
                 familiarity=None):
        self.values_ = dict(values)
        self.probabilities_ = {} if probabilities is None else {k: dict(v) for k, v in probabilities.items()}
        self.confidence_ = confidence
        self.score_ = confidence if score is ... else score
        self.familiarity_ = familiarity
        self.route = route
        self.usage = usage

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef dict _values(self):
        cdef _Answers a = self.answers
        if self.values_ is None:
            if self.data == NULL:
                raise TypeError("an uninitialised Result")
            self.values_ = {a.names[h]: a.value(h, self.data, <int32_t*>(self.data + a.columns))
                            for h in range(a.count)}
        return self.values_

    @property
    def confidence(self):
        """Calibrated probability in [0, 1] that the answer is right, or None when no output is enumerable."""
        cdef float sureness
        if self.data != NULL:
            sureness = self.data[self.answers.columns + self.answers.count]
            return <double>sureness if sureness <= 1 else None
        return self.confidence_

    @property
    def score(self):
        """`gate_score`; or the value of an output of this name, which was there first."""
        if self.answers.has_score if self.data != NULL else "score" in self._values():
            return self["score"]
        return self.gate_score

    @property
    def gate_score(self):
        """How likely in [0, 1] the answer is the one that the teacher would give, as the program's gate estimates it.

        The confidence where no gate was fitted; None where there is neither, as for numbers alone.
        """
        cdef float score
        if self.data != NULL:
            score = self.data[self.answers.columns + self.answers.count + 1]
            return <double>score if score <= 1 else None
        return self.score_

    @property
    def gate_familiarity(self):
        """How like the program's examples the input is: on a scale of log-odds, of no unit. None without a gate.

        The score is 0 where it is less than that of nearly all examples, see `FitOptions.novelty`.
        """
        cdef float like
        if self.data != NULL:
            like = self.data[self.answers.columns + self.answers.count + 2]
            return <double>like if like < INFINITY else None
        return self.familiarity_

    def probabilities(self, str output not None):
        """{class: probability} of one output, in the order of its classes.

        A softmax output's sum to 1; a multi-label output's are each label's own.

        Raises:
            KeyError: no such output, or none that has probabilities.
        """
        cdef _Answers a
        if self.data != NULL:
            a = self.answers
            found = a.probabilities(a.position[output], self.data)
        else:
            found = self.probabilities_.get(output)
        if found is None:
            raise KeyError(f"{output!r} has no probabilities")
        return dict(found)

    def __getitem__(self, name):
        cdef _Answers a
        if self.data != NULL:  # made anew each time: a caller may change the list it is given
            a = self.answers
            return a.value(a.position[name], self.data, <int32_t*>(self.data + a.columns))
        return self._values()[name]

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; the outputs are {', '.join(self.keys())}") from None

    def __len__(self):
        return len(self._values())

    def __iter__(self):
        return iter(self._values())

    def __contains__(self, name):
        return name in self._values()

    def keys(self):
        return self._values().keys()

    def values(self):
        return self._values().values()

    def items(self):
        return self._values().items()

    def get(self, name, default=None):
        return self._values().get(name, default)

    def to_dict(self):
        """A new dict of output names and values."""
        return {name: self[name] for name in self._values()}

    def __eq__(self, other):
        if isinstance(other, Result):
            return self._values() == (<Result>other)._values()
        if isinstance(other, Mapping):
            return self._values() == dict(other)
        return NotImplemented

    __hash__ = None

    def __dir__(self):
        return [*object.__dir__(self), *self.keys()]

    def __repr__(self):
        fields = [f"{k}={v!r}" for k, v in self._values().items()]
        if self.confidence is not None:
            fields.append(f"confidence={self.confidence:.3f}")
        return f"Result({', '.join(fields)}, route={str(self.route)!r})"

    def __reduce__(self):
        probabilities = {}
        for name in self._values():
            try:
                probabilities[name] = self.probabilities(name)
            except KeyError:
                pass
        rest = (self.confidence, self.usage, self.gate_score, self.gate_familiarity)
        return _rebuild_result, (self.to_dict(), self.route, probabilities, *rest)


def _rebuild_result(values, route, probabilities, confidence, usage, score=..., familiarity=None):
    return Result(values, route=route, probabilities=probabilities, confidence=confidence, usage=usage, score=score,
                  familiarity=familiarity)


Mapping.register(Result)
