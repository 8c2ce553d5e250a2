/* Pool::stop against submissions, sleepers and strands: every worker ends, and every task. */

#ifndef TASKS
#define TASKS 1
#endif
#ifndef STRAND_TASKS
#define STRAND_TASKS 2
#endif
#ifndef SESSIONS
#define SESSIONS 1 /* submitters to the strand */
#endif
#if STRAND_TASKS > 0 && !defined(STRANDS)
#define STRANDS 1
#endif

#include "parts.pml"

mtype = { open, refusing, stopping };
mtype stage = open;
bool crew; /* the mutex */
byte accepted; /* by the strand */
byte ended;

inline run_task() { ended++ }
#ifdef STRANDS
inline take_from_strand() { take_from(strand) }
inline run_strand() {
  ended++;
  done_one(strand - 1, yes);
  if
  :: yes -> yes = false; pinned[me] = pinned[me] | mask_of(strand - 1) /* behind the other strands */
  :: else
  fi;
  strand = 0
}
#define worker_locals schedule_locals
#else
inline run_strand() { skip }
#endif

inline leave() {
  atomic { !crew -> crew = true };
#ifdef STRANDS
  is_active[me] = false;
#ifndef BUG_STRANDS_TAKEN_ALONG
  atomic { pinned[me] = pinned[me] | ready[me]; ready[me] = 0 };
#endif
#endif
  if
  :: stage == stopping -> skip
  :: else ->
#ifdef STRANDS
     take_pinned(me);
     schedule();
#endif
     wake_one_if_lanes_have_work()
  fi;
  crew = false
}

#include "worker.pml"

/* Pool::cancel_waiting: takes what waits, as a worker does, and ends it. */
inline cancel_waiting() {
  do
  :: atomic { has_next(0) -> head[0]++ };
     ended++
  :: else -> break
  od;
#ifdef STRANDS
  for (where : 0 .. WORKERS - 1) {
    take_pinned(where);
    do
    :: todo == 0 -> break
    :: else ->
       atomic { each = lowest_of(todo); todo = todo & ~mask_of(each) };
more:  atomic { take_from(each) };
       ended++;
       done_one(each, won);
       if
       :: won -> goto more
       :: else
       fi
    od
  };
  atomic { where = 0; each = 0 }
#endif
}

inline sweep_if_stopping() {
  if
#ifdef BUG_STAGE_UNSEEN
  :: true
#endif
  :: stage == stopping -> cancel_waiting()
  :: else
  fi
}

proctype Submitter() {
#ifdef STRANDS
  schedule_locals;
#endif
  byte place, target, left = TASKS;
  bool won, slept;

  do
  :: left > 0 && stage == open ->
     push_task(0);
     wake_one();
     sweep_if_stopping();
     left--
  :: else -> break
  od
}

#ifdef STRANDS
proctype Session(byte strand) {
  schedule_locals;
  byte left = STRAND_TASKS;
  bool won, slept;

  do
  :: left > 0 && stage == open ->
     atomic { listed[strand]++; accepted++ };
     atomic { todo = (pending[strand] == 0 -> mask_of(strand) : 0); pending[strand]++ };
     schedule();
     sweep_if_stopping();
     left--
  :: else -> break
  od
}
#endif

inline wake_everybody() {
  for (each : 0 .. WORKERS - 1) { wake(each) };
  atomic { each = 0; won = false }
}

#ifdef RESIZE
/* Asks the last worker to go. */
proctype Resize() {
  byte each;
  bool won, slept;

  atomic { !crew -> crew = true };
  if
  :: stage == open ->
     leaving[WORKERS - 1] = true;
     wake_everybody()
  :: else
  fi;
  crew = false
}
#endif

proctype Stop() {
#ifdef STRANDS
  schedule_locals;
#else
  byte each;
#endif
  bool won, slept;

  stage = refusing;
  atomic { !crew -> crew = true };
  stage = stopping;
#ifdef BUG_SWEEP_BEFORE_JOIN
  cancel_waiting();
#endif
  for (each : 0 .. WORKERS - 1) { leaving[each] = true };
  wake_everybody();
  crew = false;
  workers_left == 0; /* joins */
#ifndef BUG_SWEEP_BEFORE_JOIN
  cancel_waiting()
#endif
}

init {
  byte i;
  atomic {
    for (i : 0 .. WORKERS - 1) { run Worker(i) };
#ifdef STRANDS
    for (i : 0 .. WORKERS - 1) { is_active[i] = true };
    for (i : 0 .. STRANDS - 1) { strand_home[i] = WORKERS - 1 }; /* the one that a resize sends away */
    for (i : 0 .. SESSIONS - 1) { run Session(i % STRANDS) };
#endif
#if TASKS > 0
    run Submitter();
#endif
#ifdef RESIZE
    run Resize();
#endif
    run Stop();
    i = 0
  };
  timeout;
  assert(_nr_pr == 1); /* every worker has ended, and so has stop() */
  assert(ended == tail[0] + accepted);
  assert(head[0] == tail[0]);
#ifdef STRANDS
  for (i : 0 .. STRANDS - 1) { assert(listed[i] == 0 && pending[i] == 0) };
#endif
  assert(searching == 0 && sleeping == 0)
}
