/* The life of a task (pool/task.*): one of run, cancel and loss wins, whoever waits is woken, the mailbox gets it
 * once, and it is freed once, after the last touch. */

#define mask 7          /* phases, flags and references in one word, as in task.hpp */
#define waiting 0
#define running 1
#define done 2
#define lost 4
#define cancelled 5
#define sleepers 8
#define listener 16
#define one_ref 32
#define phase_of(value) ((value) & mask)
#define with_phase(value, phase) ((((value) / 8) * 8) | phase)

#ifndef CANCELLERS
#define CANCELLERS 1
#endif
#ifndef WAITERS
#define WAITERS 1
#endif
#ifndef LISTENERS
#define LISTENERS 1
#endif

short state;
byte frees;
bool in_futex[WAITERS + 1];
bool has_mailbox;        /* Task::mailbox_ */

byte mailbox_refs = 1;   /* its owner's: the reader */
byte mailbox_frees;
byte letters;            /* in the box */
byte bell;               /* its descriptor */

byte ends, posts, listened;

#define touch assert(frees == 0)
#define touch_mailbox assert(mailbox_frees == 0)

inline load(value) { atomic { touch; value = state } }

/* compare_exchange of `value`: `swapped`, or `value` is what is there. */
inline swap(value, next) {
  atomic {
    touch;
    swapped = (state == value);
    if
    :: swapped -> state = next
    :: else -> value = state
    fi
  }
}

inline release() {
  atomic {
    touch;
    state = state - one_ref;
    if
    :: state < one_ref -> frees++
    :: else
    fi
  }
}

inline release_mailbox() {
  atomic {
    touch_mailbox;
    mailbox_refs--;
    if
    :: mailbox_refs == 0 -> mailbox_frees++
    :: else
    fi
  }
}

inline tell(flags) {
  if
  :: flags & sleepers -> atomic {
       for (i : 0 .. WAITERS) { in_futex[i] = false };
       i = 0
     }
  :: else
  fi;
  if
  :: flags & listener ->
     atomic { touch; assert(has_mailbox); state = state + one_ref };
     atomic {
       touch_mailbox;
       assert(letters == 0); /* once */
       letters++;
       posts++
     };
     atomic { touch_mailbox; bell = 1 };
     release_mailbox()
  :: else
  fi
}

/* waiting -> phase; `swapped` says whether. */
inline leave_waiting(phase) {
  load(seen);
  do
  :: phase_of(seen) != waiting -> swapped = false; break
  :: else ->
#ifdef BUG_CANCEL_BLINDLY
     atomic { touch; seen = state; state = with_phase(state, phase); swapped = true };
#else
     swap(seen, with_phase(seen, phase));
#endif
     if
     :: swapped -> break
     :: else
     fi
  od
}

inline finish_and_release(phase) {
  load(seen);
  do
  :: swap(seen, with_phase(seen, phase) - ((seen & (sleepers | listener)) != 0 -> 0 : one_ref));
     if
     :: swapped -> break
     :: else
     fi
  od;
  swapped = false;
  if
#ifdef BUG_NOBODY_IS_TOLD
  :: (seen & (sleepers | listener)) != 0 -> release()
#elif defined(BUG_RELEASED_BEFORE_TOLD)
  :: (seen & (sleepers | listener)) != 0 -> release(); tell(seen)
#else
  :: (seen & (sleepers | listener)) != 0 -> tell(seen); release()
#endif
  :: else ->
     if
     :: seen < 2 * one_ref -> frees++
     :: else
     fi
  fi;
  seen = 0
}

/* A worker that has it in a group: runs it, or dies before that or under it. */
proctype Worker() {
  short seen, i;
  bool swapped;

  leave_waiting(running);
  if
  :: swapped ->
     swapped = false;
     ends++;
     if
     :: finish_and_release(done)
     :: finish_and_release(lost)
     fi
  :: else ->
#ifdef BUG_BURIED_AFTER_CANCEL
     if
     :: release()
     :: finish_and_release(lost) /* Worker::bury, had it not looked whether the task is its own */
     fi
#else
     release()
#endif
  fi
}

proctype Canceller() {
  short seen, i;
  bool swapped;

  leave_waiting(cancelled);
  if
  :: swapped -> swapped = false; ends++; tell(seen)
  :: else
  fi;
  release()
}

proctype Waiter(byte me) {
  short seen;
  bool swapped;

  do
  :: load(seen);
     if
     :: phase_of(seen) >= done -> break
     :: else
     fi;
     if
     :: (seen & sleepers) == 0 ->
#ifdef BUG_SLEEPS_UNANNOUNCED
        skip
#else
        swap(seen, seen | sleepers);
        if
        :: swapped -> seen = seen | sleepers; swapped = false
        :: else -> goto again
        fi
#endif
     :: else
     fi;
     atomic {
       touch;
       if
       :: state == seen -> in_futex[me] = true
       :: else /* it has changed: no sleep */
       fi
     };
     !in_futex[me];
#ifdef TIMEOUT
     if
     :: true -> break /* and goes without it */
     :: true -> skip
     fi;
#endif
again: skip
  od;
  release()
}

proctype Listener() {
  short seen;
  bool swapped;

  atomic { touch; has_mailbox = true };
  atomic { touch_mailbox; mailbox_refs++ };
  load(seen);
  do
  :: phase_of(seen) >= done -> release_mailbox(); break
  :: else ->
     swap(seen, seen | listener);
     if
     :: swapped -> listened++; break
     :: else
     fi
  od;
  release()
}

/* Empties the mailbox after each ring. */
proctype Reader() {
  byte taken;

end_reading:
  do
  :: atomic { bell > 0 -> bell = 0 };
     atomic { touch_mailbox; taken = letters; letters = 0 };
     if
     :: taken > 0 -> taken = 0; release()
     :: else
     fi
  od
}

init {
  byte i;
  atomic {
    state = waiting + one_ref * (1 + CANCELLERS + WAITERS + LISTENERS);
    run Reader();
    run Worker();
    for (i : 1 .. CANCELLERS) { run Canceller() };
#if WAITERS > 0
    for (i : 1 .. WAITERS) { run Waiter(i) };
#endif
#if LISTENERS > 0
    run Listener(); /* a task is listened to once */
#endif
    i = 0
  };
  timeout;
  assert(_nr_pr == 2);               /* only the reader is left: nobody sleeps */
  assert(ends == 1 && frees == 1);
  assert(posts == listened && letters == 0);
  assert(mailbox_frees == 0 && mailbox_refs == 1)
}
