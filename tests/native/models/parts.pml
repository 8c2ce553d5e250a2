/* Lanes and the idle set of pool/idle.hpp, for the models that include this file; they define TASKS, the most that
 * are pushed to a lane. Every statement, and every atomic block, is one sequentially consistent operation and what
 * its thread makes of the outcome. */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef LANES
#define LANES 1
#endif
#ifndef surplus
#define surplus(worker) false /* whether it sleeps only for a time */
#endif
#define mask_of(i) (1 << (i))
#define lowest_of(set) ((set & 1) -> 0 : ((set & 2) -> 1 : 2))

/* A lane: what queue.pml has shown of it. An element behind one that is still being pushed cannot be taken. */
byte tail[LANES], head[LANES];
bool whole[LANES * (TASKS + 1)];
#define has_next(lane) whole[lane * (TASKS + 1) + head[lane]]

byte pinned[WORKERS]; /* strands, as a set */
byte ready[WORKERS];
bool leaving[WORKERS];
byte workers_left = WORKERS;

byte searching;
byte sleeping;        /* set of the announced */
mtype = { none, token, sleeper };
mtype word[WORKERS] = none;
bool in_futex[WORKERS];

inline push_task(lane) {
  atomic { place = lane * (TASKS + 1) + tail[lane]; tail[lane]++ };
  atomic { whole[place] = true; place = 0 }
}

inline take_task(lane) {
  atomic {
    if
    :: has_next(lane) -> head[lane]++; found = true
    :: else
    fi
  }
}

/* Both orders, as strands_first_ is now this and now that. */
inline find() {
#if defined(STRANDS) && TASKS == 0
  find_strand()
#elif defined(STRANDS)
  if
  :: true -> find_strand(); if :: !found -> find_task() :: else fi
  :: true -> find_task(); if :: !found -> find_strand() :: else fi
  fi
#else
  find_task()
#endif
}

#if (defined(STRANDS) && TASKS > 0) || LANES > 1
#define looking_is_one_step
#else
#define looking_is_one_step atomic
#endif

inline find_task() {
  take_task(me % LANES);
#if LANES > 1
  if
  :: !found -> take_task((me + 1) % LANES)
  :: else
  fi
#endif
}

inline find_strand() {
  atomic {
    if
    :: ready[me] == 0 -> ready[me] = pinned[me]; pinned[me] = 0
    :: else
    fi;
    if
    :: ready[me] != 0 ->
       strand = lowest_of(ready[me]);
       ready[me] = ready[me] & ~mask_of(strand);
       take_from_strand();
       strand++; /* 0: none */
       found = true
    :: else
    fi
  }
}

inline retract(worker) {
  atomic { won = ((sleeping & mask_of(worker)) != 0); sleeping = sleeping & ~mask_of(worker) }
}

inline wake(worker) {
  if
  :: atomic { (sleeping & mask_of(worker)) == 0 -> won = false }
  :: else ->
     retract(worker);
     if
#ifdef BUG_WAKE_WITHOUT_SEARCH
     :: won ->
#else
     :: atomic { won -> searching++ };
#endif
        atomic {
          assert(word[worker] != token); /* one token at a time */
          slept = (word[worker] == sleeper);
          word[worker] = token
        };
        if
        :: atomic { slept -> in_futex[worker] = false; slept = false }
        :: else
        fi
     :: else
     fi
  fi
}

inline wake_one() {
  do
  :: atomic { sleeping == 0 -> target = 0; break }
  :: atomic { sleeping != 0 -> target = lowest_of(sleeping) };
     if
     :: atomic { searching != 0 -> target = 0; break }
     :: else ->
        wake(target);
        if
        :: atomic { won -> won = false; target = 0; break }
        :: else
        fi
     fi
  od
}

inline wake_one_if_lanes_have_work() {
#if LANES == 1
  if
  :: has_next(0) -> wake_one()
  :: else
  fi
#else
  if
  :: has_next(0) -> wake_one()
  :: else ->
     if
     :: has_next(1) -> wake_one()
     :: else
     fi
  fi
#endif
}

inline end_search() {
  atomic { assert(searching > 0); searching--; yes = (searching == 0) }
}

inline found_while_searching() {
  end_search();
#ifndef BUG_NOBODY_WAKES_THE_NEXT
  if
  :: yes -> yes = false; wake_one_if_lanes_have_work()
  :: else
  fi
#else
  yes = false
#endif
}

/* `awake` becomes false when the time is over. A sleeper that is woken looks at the word itself. */
inline await_token(for_a_time) {
  atomic {
    awake = true;
    if
    :: word[me] == none -> word[me] = sleeper
    :: else
    fi
  };
  do
  :: word[me] != sleeper -> word[me] = none; break
  :: atomic { word[me] == sleeper -> in_futex[me] = true };
end_asleep:
     if
     :: !in_futex[me] -> skip
     :: for_a_time ->
        in_futex[me] = false;
        if
        :: word[me] == sleeper -> awake = false; break
        :: else
        fi
     fi
  od
}

#ifdef STRANDS
/* Strands: how many tasks are in, and who has them. */
byte listed[STRANDS];     /* pushed and not taken */
byte pending[STRANDS];
bool held[STRANDS];       /* some worker has taken a task and not ended it */
byte strand_home[STRANDS];
bool is_active[WORKERS];
#define schedule_locals byte todo, each, home, where, other

/* Strand::take; part of an atomic block, for only one may be in it at a time. */
inline take_from(strand) {
  assert(!held[strand]); /* one worker at a time */
  held[strand] = true;
  assert(listed[strand] > 0);
  listed[strand]--
}

inline done_one(strand, more) {
  atomic {
    assert(pending[strand] > 0 && held[strand]);
    held[strand] = false;
    pending[strand]--;
    more = (pending[strand] != 0)
  }
}

inline any_active(from) { /* WORKERS: none */
  other = from;
  do
  :: is_active[other] -> break
  :: else ->
     other = (other + 1) % WORKERS;
     if
     :: other == from -> other = WORKERS; break
     :: else
     fi
  od
}

inline take_pinned(worker) {
  atomic { todo = todo | pinned[worker]; pinned[worker] = 0 }
}

#ifndef wake_pinned
#define wake_pinned(worker) wake(worker)
#endif

/* Pool::schedule and Pool::reroute of the strands in `todo`. */
inline schedule() {
  do
  :: todo == 0 -> break
  :: else ->
     atomic {
       each = lowest_of(todo);
       todo = todo & ~mask_of(each);
       home = strand_home[each];
       where = home
     };
     if
     :: is_active[home] -> skip
     :: else ->
        any_active(home);
        if
        :: other != WORKERS -> strand_home[each] = other; where = other
        :: else
        fi
     fi;
     atomic {
       assert(!held[each] && !((pinned[0] | pinned[WORKERS - 1]) & mask_of(each))); /* it is in one list */
       pinned[where] = pinned[where] | mask_of(each)
     };
     if
#ifdef BUG_PUSHED_UNSEEN
     :: true -> wake_pinned(where)
#else
     :: is_active[where] -> wake_pinned(where)
#endif
     :: else ->
        any_active(home);
        if
        :: other != WORKERS -> take_pinned(where)
        :: else
        fi
     fi
  od;
  atomic { each = 0; home = 0; where = 0; other = 0; won = false }
}
#endif
