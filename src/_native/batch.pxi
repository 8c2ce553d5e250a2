# Part of _pool.pyx: many rows of one program.

cdef enum:
    ROW_COST = 64              # of a row without text; a byte of text costs 1
    CHUNK_COST = 2048          # about 15 us of work: what is claimed at once
    WORTH_HELP = 8192          # a helper costs some microseconds to wake, and comes some tens later
    SEGMENT_ROWS = 4096        # at most; a quarter of what is left, so that little is left to do when helpers are done
    LAST_ROWS = 128            # but no fewer
    SEGMENT_COST = 1 << 20
    SEGMENT_BYTES = 4 << 20    # of answers
    REPORT_NS = 100_000_000    # between two reports of progress


cdef class _BatchRun:
    """One batch, from rows to results. The GIL is held while rows are read and results are made; helpers answer
    meanwhile, and so does the caller while it waits for the segment whose results it makes next.
    """

    cdef Batch* batch
    cdef PoolCore pool
    cdef Predictor program
    cdef tuple rows
    cdef list results
    cdef bint collect
    cdef Py_ssize_t stop           # the first row that does not fit, under "raise"; else the number of rows
    cdef object progress
    cdef size_t texts, width, floats, helpers
    cdef uint64_t cost, costed     # what rows have cost so far
    cdef vector[PyObject*] owners[2]
    cdef Py_ssize_t first[2]       # the segment's first row
    cdef dict errors               # row -> what is wrong with it

    def __cinit__(self, PoolCore pool, Predictor program, tuple rows, list results, bint collect, progress):
        cdef size_t count = len(rows) - len(results), capacity
        self.pool, self.program, self.rows, self.collect, self.progress = pool, program, rows, collect, progress
        self.results, self.errors, self.stop = results, {}, len(rows)
        self.texts, self.width = program.n_texts, program.view.dense_width
        self.floats = program.answerer.answer_floats()
        self.helpers = pool.pool.size() - 1
        capacity = min(<size_t>SEGMENT_ROWS, max(<size_t>LAST_ROWS, <size_t>SEGMENT_BYTES // (self.floats * sizeof(float))))
        capacity = min(capacity, max(<size_t>LAST_ROWS, count // 4))
        self.batch = new Batch(program.answerer, self.texts, capacity)
        for turn in range(2):
            self.owners[turn].resize(capacity * self.texts)

    def __dealloc__(self):
        if self.batch != NULL:
            self.batch.release()

    cdef list run(self):
        cdef Py_ssize_t row = len(self.results)
        cdef size_t turn = 0
        cdef int64_t reported = now_ns()
        try:
            while row < self.stop:
                row = self.read(turn, row)
                if turn > 0:
                    self.make_results(turn - 1)
                turn += 1
                if self.progress is not None and now_ns() - reported > REPORT_NS:
                    reported = now_ns()
                    self.progress(<double>row / len(self.rows))
            if turn > 0:
                self.make_results(turn - 1)
            self.batch.end()
        except:
            with nogil:
                self.batch.cancel()
            raise
        finally:
            for k in range(2):
                self.forget(k)
        if self.stop < len(self.rows):
            raise self.errors[self.stop]
        if self.progress is not None:
            self.progress(1.0)
        return self.results

    cdef Py_ssize_t read(self, size_t turn, Py_ssize_t row) except -1:
        """Reads rows until the segment is full, and publishes them in chunks; the row after the last."""
        cdef Segment* segment = &self.batch.segment(turn)
        cdef size_t n = 0, begin = 0, i, chunk = CHUNK_COST // 2 if turn == 0 else CHUNK_COST
        cdef size_t limit = min(segment.capacity, max(<size_t>LAST_ROWS, <size_t>(self.stop - row) // 4))
        cdef uint64_t cost = 0, total = 0, bytes
        cdef PyObject** owners = self.owners[turn % 2].data()
        cdef TextView* texts = segment.texts.data()
        cdef float* dense = segment.dense.data()
        self.first[turn % 2] = row
        self.batch.begin(turn)
        while n < limit and total < SEGMENT_COST and row < self.stop:
            if self.program._read(self.rows[row], texts, owners, dense):
                bytes = ROW_COST + 4 * self.width
                for i in range(self.texts):
                    bytes += texts[i].size * texts[i].unit
                cost += bytes
                total += bytes
                n += 1
                if cost >= chunk:
                    self.publish(turn, begin, n, cost, row)
                    begin, cost, chunk = n, 0, CHUNK_COST
            else:
                self.reject(row)
                release_texts(owners, self.texts)
                if begin < n:
                    self.publish(turn, begin, n, cost, row)
                if self.collect:
                    segment.states[n] = RowState.empty  # in no chunk; its error is known
                    n += 1
                begin, cost = n, 0
            texts += self.texts
            owners += self.texts
            dense += self.width
            row += 1
            segment.rows = n
        if begin < n:
            self.publish(turn, begin, n, cost, row)
        return row

    cdef publish(self, size_t turn, size_t begin, size_t end, uint64_t cost, Py_ssize_t row):
        self.batch.publish(turn, begin, end)
        self.cost += cost
        self.costed += end - begin
        if self.helpers and self.cost // self.costed * <uint64_t>(self.stop - row) >= WORTH_HELP:
            self.batch.call_helpers(dereference(self.pool.pool), self.helpers)

    cdef reject(self, Py_ssize_t row):
        try:
            self.program._reject(self.rows[row], row)
        except Exception as error:
            self.errors[row] = error
        if not self.collect:
            self.stop = row

    cdef finish(self, size_t turn):
        """Answers, with the helpers, until the segment has been answered."""
        cdef bint done = False
        while not done:
            with nogil:
                done = self.batch.finish(turn, now_ns() + LOOK_NS)
            PyErr_CheckSignals()

    cdef make_results(self, size_t turn):
        self.finish(turn)
        cdef Segment* segment = &self.batch.segment(turn)
        cdef const float* answers = segment.answers()
        cdef Py_ssize_t first = self.first[turn % 2], row
        cdef size_t i
        for i in range(segment.rows):
            row = first + i
            if segment.states[i] == RowState.answered:
                self.results.append(self.program._result(answers + i * self.floats))
            else:
                self.results.append(self.unanswered(row))
        self.forget(turn % 2)

    cdef object unanswered(self, Py_ssize_t row):
        """A row that does not fit, holds nothing to answer from, or whose worker died."""
        error = self.errors.get(row)
        if error is not None:
            return error
        return self.program._predict_or_error(self.rows[row], row, self.collect)

    cdef forget(self, size_t k):
        release_texts(self.owners[k].data(), self.owners[k].size())


def run_batch(PoolCore pool not None, Predictor program not None, tuple rows not None, list results not None, *,
              bint collect, progress):
    """Answers the rows after those that have results, on the pool's workers and the calling thread; returns the
    results. See Predictor.batch.
    """
    if program.answers is None:
        program._require_bound()
    if not pool._is_open:
        raise pool._not_open()
    return (<_BatchRun>_BatchRun(pool, program, rows, results, collect, progress)).run()
