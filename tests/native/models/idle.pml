/* Who searches, who sleeps and whom to wake (pool/idle.hpp, Worker::wait_for): no wake-up is lost. */

#ifndef SUBMITTERS
#define SUBMITTERS 2
#endif
#ifndef TASKS
#define TASKS 2 /* of all submitters */
#endif
#ifdef OVERFLOW /* the last worker leaves when it has slept for some time */
#define surplus(worker) (worker == WORKERS - 1)
#endif

#include "parts.pml"

byte busy; /* set of workers whose task does not end */
byte gone;

/* A task may last for ever: then the others have to take what waits. */
inline run_task() {
#ifdef GROUPS /* Worker::collect: it searches while it waits for company */
  searching++;
  do
  :: find_task();
     if
     :: found -> found = false
     :: else -> break
     fi
  :: true -> break
  od;
  found_while_searching();
#endif
  if
  :: true -> skip
  :: true -> busy = busy | mask_of(me);
end_busy:
     false
  fi
}
inline run_strand() { strand = 0; run_task() }
inline take_from_strand() { skip }
inline leave() {
  gone = gone | mask_of(me);
#ifndef BUG_LEAVES_SILENTLY
  wake_one_if_lanes_have_work()
#endif
}

#include "worker.pml"

proctype Submitter(byte lane; byte tasks) {
  byte place, target;
  bool won, slept;

  do
  :: tasks > 0 ->
#ifdef BUG_LOOK_BEFORE_PUSH
     wake_one();
     push_task(lane);
#else
     push_task(lane);
     wake_one();
#endif
     tasks--
  :: else -> break
  od
}

/* A strand for one worker only. */
proctype Scheduler(byte worker; byte strand) {
  bool won, slept;

#ifdef BUG_LOOK_BEFORE_PUSH
  wake(worker);
  pinned[worker] = pinned[worker] | mask_of(strand)
#else
  pinned[worker] = pinned[worker] | mask_of(strand);
  wake(worker)
#endif
}

#ifdef RESIZE
/* Asks the last worker to go. */
proctype Resize() {
  bool won, slept;

  leaving[WORKERS - 1] = true;
  wake(WORKERS - 1)
}
#endif

init {
  byte i;
  atomic {
    for (i : 0 .. WORKERS - 1) { run Worker(i) };
    for (i : 0 .. SUBMITTERS - 1) { run Submitter(i % LANES, TASKS / SUBMITTERS) };
#ifdef STRANDS
    for (i : 0 .. STRANDS - 1) { run Scheduler(WORKERS - 1 - i, i) };
#endif
#ifdef RESIZE
    run Resize();
#endif
    i = 0
  };
  /* Nobody can go on: workers sleep, or run a task that does not end. */
  timeout;
  for (i : 0 .. LANES - 1) {
    assert(tail[i] == TASKS / LANES);
    assert(head[i] == tail[i] || (sleeping == 0)) /* nobody sleeps while a task waits */
  };
  for (i : 0 .. WORKERS - 1) {
    assert(((sleeping & mask_of(i)) != 0) == in_futex[i]);
    assert(word[i] == (in_futex[i] -> sleeper : none)); /* no token is under way */
    assert(in_futex[i] || ((busy | gone) & mask_of(i)));
    assert((pinned[i] | ready[i]) == 0 || (busy & mask_of(i)))
  };
  assert(searching == 0)
}
