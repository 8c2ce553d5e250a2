# Part of _pool.pyx: what is handed back for a task, and how its end reaches Python.

cdef object _orphans_lock = RLock()
cdef list _orphans = []    # programs of calls whose handles were dropped before the calls had ended


cdef class _Orphan:
    cdef Task* task
    cdef Predictor program

    def __dealloc__(self):
        self.task.release()


cdef _adopt(Task* task, Predictor program):
    """Keeps the program until the task has ended; takes over a reference to the task."""
    cdef _Orphan orphan = _Orphan.__new__(_Orphan)
    orphan.task, orphan.program = task, program
    with _orphans_lock:
        _orphans.append(orphan)
        count = len(_orphans)
    if count < 16 or count & (count - 1) == 0:  # always while they are few, else now and then
        _let_orphans_go()


def _let_orphans_go():
    """Forgets the programs of calls that have ended."""
    global _orphans
    with _orphans_lock:
        all_orphans, _orphans = _orphans, []
        for each in all_orphans:
            if not (<_Orphan>each).task.finished():
                _orphans.append(each)
    # Here, with the list in order again, programs go, and what goes with them may come by once more.
    del all_orphans


cdef class Handle:
    """A task's end of the line in Python. Its subclass `dspex.pool.Future` is what users get."""

    cdef Task* task
    cdef CallTask* call            # the task, if it is a call
    cdef ProbeTask* probe          # the task, if it is a probe
    cdef Predictor program
    cdef object inputs
    cdef object outcome_           # the result, once it has been asked for
    cdef object error_
    cdef public object waiter      # the asyncio future that waits for it, or None
    cdef bint cancel_asked
    cdef int64_t spin_ns
    cdef uint64_t generation       # of forks

    def __cinit__(self, *args, **kwargs):
        self.task = NULL
        self.call = NULL
        self.probe = NULL
        self.generation = forks_so_far()

    def __dealloc__(self):
        if self.task == NULL:
            return
        if self.call != NULL and not self.task.finished():
            _adopt(self.task, self.program)
        else:
            self.task.release()

    cdef start_call(self, Predictor program, inputs):
        cdef TextView texts[MAX_TEXTS]
        cdef PyObject* owners[MAX_TEXTS]
        cdef float numbers[256]
        cdef vector[TextView] more_texts
        cdef vector[float] more_numbers
        cdef vector[PyObject*] more_owners
        cdef TextView* t = texts
        cdef PyObject** o = owners
        cdef float* d = numbers
        if program.answers is None:
            program._require_bound()
        if program.n_texts > MAX_TEXTS:
            more_texts.resize(program.n_texts)
            more_owners.resize(program.n_texts)
            t, o = more_texts.data(), more_owners.data()
        if program.view.dense_width > 256:
            more_numbers.resize(program.view.dense_width)
            d = more_numbers.data()
        memset(o, 0, program.n_texts * sizeof(PyObject*))
        try:
            if not program._read(inputs, t, o, d):
                program._reject(inputs, None)
                raise AssertionError("refused inputs were not explained")
            self.call = CallTask.make(program.answerer, t, program.n_texts, d)
        finally:
            release_texts(o, program.n_texts)
        self.task = <Task*>self.call
        self.program, self.inputs = program, inputs

    cdef start_probe(self, int64_t busy_ns, int64_t sleep_ns, Fault fault, bint batchable):
        self.probe = new ProbeTask(busy_ns, sleep_ns, fault, batchable)
        self.task = <Task*>self.probe

    cdef run_here(self):
        """On this thread, in place of a worker; gives up the worker's reference."""
        if not self.task.begin():
            self.task.release()
            return
        try:
            with nogil:
                if self.call != NULL:
                    self.call.perform()
                else:
                    self.probe.perform()
        except Exception as error:
            self.error_ = errors.InternalError(f"the call failed: {error}")
            self.task.finish_and_release(Phase.failed)
        else:
            self.task.finish_and_release(Phase.done)

    cdef bint listen_on(self, LoopBox box):
        """Has the task posted there when it has ended; False if it has."""
        self.task.owner = <void*>self
        Py_INCREF(self)            # until the box is emptied
        if self.task.listen(box.box):
            return True
        Py_DECREF(self)
        return False

    def _listen(self, LoopBox box not None):
        """As listen_on; a task that has ended already is posted at once."""
        if not self.listen_on(box):
            Py_INCREF(self)
            self.task.retain()
            box.box.post(self.task)

    cdef bint wait(self, timeout) except -1:
        """Whether it ended within so many seconds (None: whenever). Spins a little before it lets the GIL go. A call
        that has not begun by its own deadline is ended here, should no worker be free to do so.
        """
        cdef Task* task = self.task
        cdef int64_t deadline = never, until, now
        cdef bint ended
        if timeout is not None:
            deadline = _deadline(timeout)
        if task.spin(close_looks):
            return True
        while True:
            now = now_ns()
            until = min(deadline, now + LOOK_NS)
            if now <= task.deadline < until:
                until = task.deadline + 1
            with nogil:
                ended = task.wait(until, self.spin_ns)
            now = now_ns()
            if ended or (now > task.deadline and task.finish_waiting(Phase.expired)):
                return True
            PyErr_CheckSignals()
            if self.generation != forks_so_far():
                raise _of_another_process()
            if now >= deadline:
                return task.finished()

    cdef object outcome(self):
        """The result of a task that has ended.

        Raises:
            CancelledError, CallTimeoutError, ResourceError, InternalError, InputError: what became of it instead.
        """
        cdef Phase phase
        if self.outcome_ is not None:
            return self.outcome_
        if self.error_ is None:
            phase = self.task.phase()
            if phase == Phase.done:
                if self.call == NULL:
                    self.outcome_ = (None if self.probe.ran_on() == no_worker else self.probe.ran_on(),)
                    return self.outcome_
                if self.call.answered():
                    self.outcome_ = self.program._result(self.call.answer())
                    self.inputs = None
                    return self.outcome_
            self.error_ = self.explain(phase)
        raise self.error_

    cdef object explain(self, Phase phase):
        if phase == Phase.cancelled:
            return CancelledError()
        if phase == Phase.expired:
            return errors.CallTimeoutError("the deadline passed before a worker was free",
                                           hint="Allow more time, or give the pool more workers")
        if phase == Phase.lost:
            return errors.ResourceError("the worker died while it ran the call", hint="It has been replaced")
        if phase == Phase.failed:
            return errors.InternalError(f"the call failed: {(<bytes>_what(self.task.error)).decode(errors='replace')}")
        try:
            self.program._reject(self.inputs, None)
        except Exception as error:
            return error
        return errors.InternalError("the inputs held nothing to answer from")

    # --- concurrent.futures

    def cancel(self):
        """Cancels the call if it has not begun. Whether it is cancelled."""
        self.cancel_asked = True
        return self.task.cancel() or self.task.phase() == Phase.cancelled

    def _let_go(self):
        """Ends the sleep of a probe."""
        if self.probe != NULL:
            self.probe.let_go()

    def _expire(self):
        """The deadline of a call that an event loop waits for has passed."""
        self.task.finish_waiting(Phase.expired)

    def _fail(self, error):
        """Ends a call that cannot be submitted with this error."""
        self.error_ = error
        self.task.cancel()

    def cancelled(self):
        """Whether it was cancelled."""
        return self.task.phase() == Phase.cancelled

    def running(self):
        """Whether a worker is at it now."""
        return self.task.phase() == Phase.running

    def done(self):
        """Whether it has ended, in whatever way."""
        return self.task.finished()

    def result(self, timeout=None):
        """Waits for the result.

        Args:
            timeout: seconds to wait; the call itself goes on.

        Raises:
            CallTimeoutError: it did not end within the timeout, or its own deadline passed before it began.
            CancelledError: it was cancelled.
            ResourceError: the worker died.
            InternalError: the call failed.
        """
        if not self.wait(timeout):
            raise errors.CallTimeoutError(f"no result within {timeout} s", hint="The call goes on: ask again later")
        return self.outcome()

    def exception(self, timeout=None):
        """Waits for the end, and gives what `result` would raise, or None.

        Raises:
            CallTimeoutError: it did not end within the timeout.
            CancelledError: it was cancelled.
        """
        if not self.wait(timeout):
            raise errors.CallTimeoutError(f"no result within {timeout} s", hint="The call goes on: ask again later")
        try:
            self.outcome()
        except CancelledError:
            raise
        except Exception as error:
            return error
        return None

    def _deliver(self):
        """Gives the outcome to the asyncio future that waits for it."""
        waiter = self.waiter
        self.waiter = None
        if waiter is None or waiter.done():
            return
        try:
            value = self.outcome()
        except CancelledError as error:
            if self.cancel_asked:
                waiter.cancel()
            else:  # nobody has cancelled the task that waits
                waiter.set_exception(errors.ResourceError("the pool was closed before the call began",
                                                          retryable=False))
        except Exception as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(value)


cdef class LoopBox:
    """Where ended tasks are posted for one reader, who is woken through a file descriptor.

    Args:
        fd: an eventfd or the writing end of a pipe, not blocking; the box owns it from here on.
    """

    cdef Mailbox* box

    def __cinit__(self, int fd):
        self.box = new Mailbox(fd)

    def __dealloc__(self):
        if self.box != NULL:
            self.take()
            self.box.release()

    @property
    def alone(self):
        """Whether no task will be posted any more: it may be dropped once it is empty."""
        return self.box.alone()

    def take(self):
        """The handles of all ended tasks, oldest first."""
        cdef Task* task = self.box.take_all()
        cdef Task* next
        cdef list handles = []
        while task != NULL:
            next = task.next_letter
            handles.append(<object>task.owner)
            Py_DECREF(<object>task.owner)
            task.release()
            task = next
        return handles

    def deliver(self):
        """Hands every outcome to the asyncio future that waits for it; how many there were."""
        handles = self.take()
        for handle in handles:
            (<Handle>handle)._deliver()
        return len(handles)
