# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
# distutils: language = c++
"""The worker pool's bindings: calls and batches handed to threads that never hold the GIL."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython.operator cimport dereference
from libc.math cimport isnan
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from concurrent.futures import CancelledError
from threading import RLock

from _core cimport MAX_TEXTS, Predictor, Result, release_texts
from native cimport TextView
from pool cimport (Accept, Batch, CallTask, Fault, Mailbox, Phase, Pool, PoolOptions, PoolStats, ProbeTask, RowState,
                   Segment, Strand, Task, WorkerCounts, close_looks, exception_ptr, forks_so_far, histogram_buckets,
                   histogram_lower_bound, max_workers, never, no_worker, now_ns, ticks)

from dspex import errors

cdef extern from *:
    """
    #include <exception>
    #include <string>
    static std::string dspex_what(const std::exception_ptr& error) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        return e.what();
      } catch (...) {
        return "an error of unknown kind";
      }
    }
    """
    string _what "dspex_what"(const exception_ptr& error) except +

MAX_WORKERS = max_workers

cdef enum:
    LOOK_NS = 50_000_000   # between two looks at Ctrl-C


include "future.pxi"
include "batch.pxi"


cdef class PoolCore:
    """The native pool. Settings are checked by its Python subclass; see dspex.pool.

    Raises:
        ResourceError: threads or memory for it cannot be had.
    """

    cdef Pool* pool
    cdef int64_t spin_ns
    cdef readonly str policy             # "block", "reject" or "caller_runs"
    cdef readonly object future_type     # what submit gives: Handle or a subclass

    def __cinit__(self, *args, **kwargs):
        self.pool = NULL

    def _open(self, *, size_t size, size_t max_size, size_t capacity, int64_t spin_ns, int64_t idle_ns,
              int64_t window_ns, size_t max_batch, bint pin, str policy, future_type):
        cdef PoolOptions options
        options.size, options.max_size, options.capacity = size, max_size, capacity
        options.spin_ns, options.idle_ns, options.window_ns = spin_ns, idle_ns, window_ns
        options.grow_ns = 1_000_000
        options.max_batch, options.pin = max_batch, pin
        self.spin_ns, self.policy, self.future_type = spin_ns, policy, future_type
        try:
            self.pool = new Pool(options)
        except (MemoryError, RuntimeError, OSError) as error:
            raise errors.ResourceError(f"the pool could not be made: {error or 'no memory'}", retryable=False,
                                       hint="Ask for fewer workers or a smaller capacity") from None

    def __dealloc__(self):
        cdef Pool* pool = self.pool
        self.pool = NULL
        if pool != NULL:
            with nogil:
                del pool

    # --- in

    def submit(self, Predictor program not None, inputs, *, timeout=None):
        """Hands one call to the pool.

        Args:
            program: a native program.
            inputs: its inputs, copied before the method returns.
            timeout: seconds, waiting for room included; a call that has not begun by then is not run, and ends
                with CallTimeoutError.

        Returns:
            A `Future` of the Result.

        Raises:
            InputError: the inputs do not fit the signature.
            PoolSaturated: the pool is full, under "reject"; or stayed full until the timeout.
            ResourceError: the pool is closed, or belongs to another process.
        """
        return self._submit(program, inputs, timeout, None)

    cdef Handle _submit(self, Predictor program, inputs, timeout, StrandCore strand):
        cdef Handle handle = <Handle>self.future_type.__new__(self.future_type)
        handle.start_call(program, inputs)
        self._hand_over(handle, timeout, strand, False)
        return handle

    def _submit_to(self, StrandCore strand not None, Predictor program not None, inputs, timeout):
        return self._submit(program, inputs, timeout, strand)

    def _prepare(self, Predictor program not None, inputs, timeout, LoopBox box not None, waiter):
        """A call whose outcome goes to an asyncio future by way of the loop's box; for `_try`."""
        cdef Handle handle = Handle.__new__(Handle)
        handle.start_call(program, inputs)
        if timeout is not None:
            handle.task.deadline = _deadline(timeout)
        handle.waiter = waiter
        handle.listen_on(box)
        return handle

    def _try(self, Handle handle not None, StrandCore strand):
        """Submits without waiting; False when there is no room. A call that is refused fails with the reason."""
        try:
            return self._hand_over(handle, None, strand, True)
        except errors.ResourceError as error:
            handle._fail(error)
            return True

    def _probe(self, *, double busy=0.0, double sleep=0.0, str fault="none", bint batchable=False, timeout=None,
               StrandCore strand=None):
        """A task that does nothing: for measuring, for health checks, and for tests of how the pool heals.

        Args:
            busy: seconds to compute.
            sleep: seconds to sleep.
            fault: "none"; "error": throws; "death": ends the worker's thread.
        """
        cdef Handle handle = <Handle>self.future_type.__new__(self.future_type)
        handle.start_probe(<int64_t>(busy * 1e9), <int64_t>(sleep * 1e9),
                           {"none": Fault.none, "error": Fault.error, "death": Fault.death}[fault], batchable)
        self._hand_over(handle, timeout, strand, False)
        return handle

    cdef bint _hand_over(self, Handle handle, timeout, StrandCore strand, bint on_loop) except -1:
        """Whether the task was taken; False only on a loop, when there is no room and the policy is to wait."""
        cdef Task* task = handle.task
        cdef Accept accept
        if self.pool == NULL:
            raise self._not_open()
        handle.spin_ns = self.spin_ns
        if timeout is not None:
            task.deadline = _deadline(timeout)
        task.submitted = ticks()
        task.retain()              # for the worker
        if strand is None:
            accept = self.pool.submit(task)
        else:
            accept = self.pool.submit(dereference(strand.strand), task)
        if accept != Accept.yes:
            return self._not_at_once(handle, strand, accept, on_loop)
        return True

    cdef bint _not_at_once(self, Handle handle, StrandCore strand, Accept accept, bint on_loop) except -1:
        """What the policy says when there is no room."""
        cdef Task* task = handle.task
        cdef bint taken = False
        try:
            if accept == Accept.full and not on_loop:
                if self.policy == "caller_runs" and strand is None:
                    self.pool.count_caller_run()
                    taken = True
                    handle.run_here()
                    return True
                if self.policy != "reject":
                    accept = self._wait_for_room(task, strand)
            if accept == Accept.yes:
                taken = True
            elif accept != Accept.full:
                raise self._not_open()
            elif not on_loop or self.policy == "reject":
                raise self._saturated(strand)
            return taken
        finally:
            if not taken:
                task.release()

    cdef Accept _wait_for_room(self, Task* task, StrandCore strand) except *:
        """Until the task's deadline; looks at Ctrl-C."""
        cdef Accept accept = Accept.full
        cdef int64_t until
        while accept == Accept.full:
            until = min(task.deadline, now_ns() + LOOK_NS)
            with nogil:
                if strand is None:
                    accept = self.pool.submit_within(task, until)
                else:
                    accept = self.pool.submit_within(dereference(strand.strand), task, until)
            if accept == Accept.full:
                PyErr_CheckSignals()
                if now_ns() >= task.deadline:
                    break
        return accept

    def _saturated(self, StrandCore strand=None):
        self.pool.count_rejected()
        return errors.PoolSaturated("the pool is full" if strand is None else "the session has too many calls waiting",
                                    retry_after=self._retry_after(strand),
                                    hint="Try again later, or give the pool more capacity or workers")

    def _not_open(self):
        if self._is_stale:
            return _of_another_process()
        return errors.ResourceError("the pool is closed", retryable=False, hint="Make a new one")

    def _retry_after(self, StrandCore strand):
        """Seconds until what waits now will have been run, from the measured service times; at least 1 ms. A
        session's calls run one at a time.
        """
        cdef PoolStats stats = self.pool.stats()
        cdef uint64_t served = 0
        for i in range(stats.service.size()):
            served += stats.service[i]
        mean = stats.counts.busy_ticks * stats.ns_per_tick / served / 1e9 if served else 0.0
        if strand is not None:
            return max(0.001, mean * strand.strand.pending())
        return max(0.001, mean * stats.queued / max(1, stats.workers))

    # --- the rest

    cdef Pool* _alive(self) except NULL:
        if self.pool == NULL:
            raise self._not_open()
        return self.pool

    @property
    def _is_open(self):
        return self.pool != NULL and not self.pool.stale() and self.pool.open()

    @property
    def _is_stale(self):
        return self.pool != NULL and self.pool.stale()

    @property
    def size(self):
        """How many workers it keeps."""
        return self._alive().size()

    @property
    def max_size(self):
        """How many workers it may have, overflow workers included."""
        return self._alive().max_size()

    @property
    def workers(self):
        """How many workers it has now."""
        return self._alive().workers()

    @property
    def queued(self):
        """How many tasks wait, those of sessions not counted."""
        return self._alive().queued()

    def _resize(self, size_t size, size_t max_size):
        self._alive().resize(size, max_size)

    def _refuse(self):
        self._alive().refuse()

    def _drain(self, double seconds):
        """Whether all that was accepted has ended; looks at Ctrl-C."""
        cdef Pool* pool = self._alive()
        cdef int64_t deadline = _deadline(seconds), until
        cdef bint done = False
        while not done:
            if pool.stale():
                raise self._not_open()
            until = min(deadline, now_ns() + LOOK_NS)
            with nogil:
                done = pool.drain(until)
            PyErr_CheckSignals()
            if now_ns() >= deadline:
                break
        return done

    def _stop(self):
        cdef Pool* pool = self._alive()
        with nogil:
            pool.stop()

    def _stats(self):
        """Counters as a dict, and the two histograms in ticks as lists."""
        cdef PoolStats s = self._alive().stats()
        return {
            "workers": s.workers, "parked": s.parked, "queued": s.queued, "accepted": s.accepted,
            "rejected": s.rejected, "caller_runs": s.caller_runs, "started": s.started, "retired": s.retired,
            "deaths": s.deaths, **_counts(s.counts), "by_worker": [_counts(each) for each in s.by_worker],
            "wait": [each for each in s.wait], "service": [each for each in s.service],
            "ns_per_tick": s.ns_per_tick,
        }

    def _strand(self):
        """A strand, on the worker whose turn it is."""
        cdef StrandCore strand = StrandCore.__new__(StrandCore)
        strand.strand = new Strand(self._alive().assign_strand())
        return strand


cdef dict _counts(const WorkerCounts& c):
    return {"ended": c.ended, "done": c.done, "failed": c.failed, "cancelled": c.cancelled, "expired": c.expired,
            "steals": c.steals, "parks": c.parks, "groups": c.groups, "grouped": c.grouped,
            "busy_ticks": c.busy_ticks}


cdef class StrandCore:
    """The order of one session's calls."""

    cdef Strand* strand
    cdef object __weakref__

    def __cinit__(self):
        self.strand = NULL

    def __dealloc__(self):
        if self.strand != NULL:
            self.strand.release()

    @property
    def pending(self):
        """Calls that wait or run."""
        return self.strand.pending()

    @property
    def worker(self):
        """The index of the worker that runs them."""
        return self.strand.worker()


def _of_another_process():
    return errors.ResourceError("the pool belongs to the process this one was forked from", retryable=False,
                                hint="Make the pool after the fork")


cdef int64_t _deadline(timeout) except? -1:
    """now_ns after so many seconds. Raises InputError for what is no number of seconds."""
    cdef double seconds
    try:
        seconds = timeout
    except TypeError:
        raise errors.InputError(f"a timeout is a number of seconds, not {type(timeout).__name__}",
                                field="timeout") from None
    if isnan(seconds):
        raise errors.InputError("a timeout cannot be NaN", field="timeout", hint="Give seconds, or None for no limit")
    if seconds <= 0:
        return now_ns()
    if seconds >= 1e9:
        return never
    return now_ns() + <int64_t>(seconds * 1e9)


def histogram_bounds():
    """The smallest value of every bucket of a histogram, in order."""
    return [histogram_lower_bound(i) for i in range(histogram_buckets)]
