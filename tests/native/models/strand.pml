/* Strands against workers that come and go (Pool::schedule, reroute, leave, replace_dead, start_worker, grow): none is
 * lost, and none is with two workers at once. */

#ifndef SESSIONS
#define SESSIONS 2 /* submitters to the one strand */
#endif
#ifndef STRAND_TASKS
#define STRAND_TASKS 2 /* of each */
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef FAILURES
#define FAILURES 0 /* of pthread_create */
#endif
#ifndef STARTED
#define STARTED 3 /* set of the workers there are at first */
#endif
#define TASKS 0
#define STRANDS 1
#define wake_pinned(worker) skip /* idle.pml has shown it: here a worker wakes by itself */

#include "parts.pml"

bool crew;            /* the mutex */
byte size = WORKERS;
byte active_workers;  /* Pool::active_ */
byte deaths = DEATHS, failures = FAILURES;
byte accepted, ended, threads;

/* With the mutex held. `failed` says how it went. */
inline start_worker(index) {
  leaving[index] = false;
  is_active[index] = true;
  active_workers++;
  if
  :: atomic { failures > 0 -> failures-- };
     is_active[index] = false;
     active_workers--;
     failed = true;
#ifndef BUG_FAILED_START_KEEPS_STRANDS
     take_pinned(index);
     schedule()
#endif
  :: atomic { run Thread(index); threads++; failed = false };
#ifndef BUG_NOBODY_ADOPTS
     for (place : 0 .. WORKERS - 1) {
       if
       :: !is_active[place] -> take_pinned(place); schedule()
       :: else
       fi
     };
     place = 0
#endif
  fi
}

inline end_strand() {
  done_one(0, yes);
  if
  :: yes -> yes = false; pinned[me] = pinned[me] | 1 /* behind the other strands */
  :: else
  fi
}

proctype Thread(byte me) {
  schedule_locals;
  byte place;
  bool won, yes, failed;

end_waiting:
  do
  :: leaving[me] -> break
  :: atomic { pinned[me] != 0 -> pinned[me] = 0; take_from(0) };
     ended++;
     if
     :: end_strand()
     :: deaths > 0 -> /* Worker::bury */
        deaths--;
        end_strand();
        yes = true;
        break
     fi
  od;

  /* Pool::leave, and after a death Pool::replace_dead. */
  atomic { !crew -> crew = true };
#ifdef BUG_REROUTE_FIRST
  take_pinned(me);
  schedule();
  is_active[me] = false;
  active_workers--;
#else
  is_active[me] = false;
  active_workers--;
#endif
  if
  :: yes || me < size -> yes = false; start_worker(me); failed = false
  :: else
  fi;
#ifndef BUG_REROUTE_FIRST
  take_pinned(me);
  schedule();
#endif
  atomic { crew = false; threads-- }
}

/* Pool::grow; `seen` is what it read of active_workers before. */
inline grow() {
  if
  :: atomic { !crew -> crew = true };
     place = 0;
     do
     :: place == WORKERS -> place = 0; break
     :: place < WORKERS && is_active[place] -> place++
     :: else ->
        where = place;
        start_worker(where);
#ifdef BUG_NOBODY_ADOPTS
        if
        :: !failed && seen == 0 -> take_pinned(1 - place); schedule()
        :: else
        fi;
#endif
        failed = false;
        place = 0;
        break
     od;
     crew = false
  :: crew /* another is at it */
  fi
}

inline submit() {
  atomic { listed[0]++; accepted++ };
#ifdef BUG_COUNTED_IN_TWO_STEPS
  todo = (pending[0] == 0 -> 1 : 0);
  pending[0]++;
#else
  atomic { todo = (pending[0] == 0 -> 1 : 0); pending[0]++ };
#endif
  schedule();
  seen = active_workers;
  if
  :: seen == 0 -> grow()
  :: else
  fi;
  seen = 0
}

proctype Session() {
  schedule_locals;
  byte place, seen, left = STRAND_TASKS;
  bool won, failed;

  do
  :: left > 0 -> submit(); left--
  :: else -> break
  od
}

/* One who pushed to a full lane and found all workers busy. */
proctype Grower() {
  schedule_locals;
  byte place, seen;
  bool won, failed;

  seen = active_workers;
  grow()
}

/* Wants one worker less, and perhaps one more again. */
proctype Resize() {
  schedule_locals;
  byte place;
  bool won, failed;

  atomic { !crew -> crew = true };
  size = WORKERS - 1;
  leaving[WORKERS - 1] = true;
  crew = false;
  if
  :: true -> goto done
  :: atomic { !crew -> crew = true }
  fi;
  size = WORKERS;
  if
  :: is_active[WORKERS - 1] -> leaving[WORKERS - 1] = false
  :: else -> start_worker(WORKERS - 1); failed = false
  fi;
  crew = false;
done: skip
}

init {
  schedule_locals;
  byte place, seen, i;
  bool won, failed;
  atomic {
    strand_home[0] = WORKERS - 1;
    for (i : 0 .. WORKERS - 1) {
      if
      :: STARTED & mask_of(i) -> is_active[i] = true; active_workers++; threads++; run Thread(i)
      :: else
      fi
    };
    for (i : 1 .. SESSIONS) { run Session() };
#ifdef RESIZE
    run Resize();
#endif
#ifdef GROWER
    run Grower();
#endif
    i = 0
  };
  /* Nobody can go on: workers wait, or there are none. */
  timeout;
  assert(!crew && threads == active_workers);
  assert(active_workers == 0 || ended == accepted);
#if FAILURES > 0
  /* Then the next submission gets a worker, who takes all that was left. */
  failures = 0;
  submit();
  timeout;
#endif
  assert(ended == accepted && listed[0] == 0 && pending[0] == 0 && !held[0])
}
