# What the Cython modules see of the pool.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from native cimport Answerer, TextView

cdef extern from "<exception>" namespace "std" nogil:
    cdef cppclass exception_ptr:
        cbool operator bool()


cdef extern from "pool/clock.hpp" namespace "dspex" nogil:
    const int64_t never                 # a deadline that does not come
    int64_t now_ns()                    # monotonic
    uint64_t ticks()


cdef extern from "pool/task.hpp" namespace "dspex" nogil:
    cdef enum class Phase(uint32_t):
        waiting
        running
        done
        failed
        lost
        cancelled
        expired

    cdef cppclass Task:
        void retain()
        void release()
        Phase phase()
        cbool finished()
        cbool begin()
        cbool cancel()
        cbool finish_waiting(Phase phase)
        void finish_and_release(Phase phase)
        cbool wait(int64_t deadline, int64_t spin_ns)
        cbool spin(unsigned looks)
        cbool listen(Mailbox* mailbox)
        int64_t deadline                # now_ns
        uint64_t submitted              # ticks
        exception_ptr error
        Task* next_letter               # in a mailbox
        void* owner
    unsigned close_looks "dspex::Task::close_looks"


cdef extern from "pool/mailbox.hpp" namespace "dspex" nogil:
    cdef cppclass Mailbox:
        Mailbox(int fd)                 # takes over the descriptor
        void release()
        void post(Task* task)           # takes over a reference
        cbool alone()
        Task* take_all()                # gives references


cdef extern from "pool/strand.hpp" namespace "dspex" nogil:
    cdef cppclass Strand:
        Strand(size_t worker)
        void release()
        size_t pending()
        size_t worker()


cdef extern from "pool/histogram.hpp" namespace "dspex" nogil:
    size_t histogram_buckets "dspex::Histogram::buckets"
    uint64_t histogram_lower_bound "dspex::Histogram::lower_bound"(size_t bucket)


cdef extern from "pool/pool.hpp" namespace "dspex" nogil:
    uint64_t forks_so_far()

    cdef cppclass PoolOptions:
        size_t size
        size_t max_size
        size_t capacity
        int64_t spin_ns
        int64_t idle_ns
        int64_t grow_ns
        int64_t window_ns
        size_t max_batch
        cbool pin

    cdef enum class Accept:
        yes
        full
        closed
        stale

    cdef cppclass WorkerCounts:
        uint64_t ended
        uint64_t done
        uint64_t failed
        uint64_t cancelled
        uint64_t expired
        uint64_t steals
        uint64_t parks
        uint64_t groups
        uint64_t grouped
        uint64_t busy_ticks

    cdef cppclass PoolStats:
        size_t workers
        size_t parked
        size_t queued
        uint64_t accepted
        uint64_t rejected
        uint64_t caller_runs
        uint64_t started
        uint64_t retired
        uint64_t deaths
        WorkerCounts counts
        vector[WorkerCounts] by_worker
        vector[uint64_t] wait
        vector[uint64_t] service
        double ns_per_tick

    cdef cppclass Pool:
        Pool(const PoolOptions& options) except +
        Accept submit(Task* task)
        Accept submit(Strand& strand, Task* task)
        Accept submit_within(Task* task, int64_t deadline)
        Accept submit_within(Strand& strand, Task* task, int64_t deadline)
        size_t assign_strand()
        void resize(size_t size, size_t max_size) except +
        void refuse()
        cbool drain(int64_t deadline)
        void stop()
        cbool open()
        cbool stale()
        size_t size()
        size_t max_size()
        size_t workers()
        size_t queued()
        const PoolOptions& options()
        PoolStats stats() except +
        void count_caller_run()
        void count_rejected()
    size_t max_workers "dspex::IdleSet::max_workers"


cdef extern from "run/call.hpp" namespace "dspex" nogil:
    cdef cppclass CallTask(Task):
        @staticmethod
        CallTask* make(const Answerer& answerer, const TextView* texts, size_t text_count, const float* dense) except +
        void perform() except +
        cbool answered()
        const float* answer()

    cdef enum class Fault "dspex::ProbeTask::Fault"(uint32_t):
        none
        error
        death

    cdef cppclass ProbeTask(Task):
        ProbeTask(int64_t busy_ns, int64_t sleep_ns, Fault fault, cbool batchable) except +
        void perform() except +
        void let_go()
        size_t ran_on()
    size_t no_worker "dspex::ProbeTask::no_worker"


cdef extern from "run/batch.hpp" namespace "dspex" nogil:
    cdef enum class RowState(uint8_t):
        open
        answered
        empty

    cdef cppclass Segment:
        vector[TextView] texts          # [rows, text inputs]
        vector[float] dense             # [rows, dense width]
        const float* answers "answers.get"()    # [rows, answer floats]
        vector[RowState] states
        size_t capacity
        size_t rows

    cdef cppclass Batch:
        Batch(const Answerer& answerer, size_t text_count, size_t segment_rows) except +
        void release()
        Segment& segment(size_t turn)
        void begin(size_t turn)
        void publish(size_t turn, size_t first, size_t end)
        void call_helpers(Pool& pool, size_t helpers)
        cbool finish(size_t turn, int64_t until)
        void cancel()
        void end()
        size_t helped()
