/* The lists a task is in (pool/stack.hpp, strand.hpp, mailbox.hpp): a strand gives its tasks once and in order, to one
 * worker at a time, and the mailbox gives each ended task once, also one that is cancelled while the strand has it. */

#define TASKS 3
#define WORKERS 2

#define strand 0
#define mailbox 1
#define at(list, i) ((list) * (TASKS + 1) + (i))
#ifdef BUG_SHARED_LINK
#define link(list, task) next[task]
#else
#define link(list, task) next[at(list, task)]
#endif

byte next[2 * (TASKS + 1)];
byte top[2];
byte taken, pending;            /* of the strand */
byte handed_over;               /* how often the strand lies with some worker */
bool bell;                      /* the mailbox's descriptor */

mtype = { waiting, running, ended };
mtype phase[TASKS + 1] = waiting;

/* In which order they were pushed, and how many have come out again. */
byte pushed[2 * (TASKS + 1)];
byte pushes[2], takes[2];

inline push(list, task) {
  old = top[list];
  do
  :: link(list, task) = old;
     if
     :: atomic {
          top[list] == old ->
          top[list] = task;
          pushed[at(list, pushes[list])] = task;
          pushes[list]++
        };
        break
     :: atomic { else -> old = top[list] }
     fi
  od
}

inline take_all(list, oldest) {
  atomic { old = top[list]; top[list] = 0; oldest = 0 };
  do
  :: old != 0 ->
     atomic { after = link(list, old); link(list, old) = oldest; oldest = old; old = after; after = 0 }
  :: else -> break
  od
}

/* The element that came out is the next in the order of pushes. */
inline comes_out(list, task) {
  assert(task != 0 && pushed[at(list, takes[list])] == task);
  takes[list]++
}

inline post(task) {
  push(mailbox, task);
  if
  :: old == 0 -> bell = true /* only when the box was empty */
  :: else -> old = 0
  fi
}

proctype Submitter(byte first; byte last) {
  byte old;

  do
  :: first <= last ->
     push(strand, first);
     atomic {
       if
       :: pending == 0 -> assert(handed_over == 0); handed_over = 1
       :: else
       fi;
       pending++;
       old = 0;
       first++
     }
  :: else -> break
  od
}

proctype Worker() {
  byte task, old, after;

end_waiting:
  do
  :: atomic { handed_over > 0 -> handed_over-- };
     if
     :: taken == 0 -> take_all(strand, taken)
     :: else
     fi;
     atomic { task = taken; comes_out(strand, task) };
     taken = link(strand, task);
     if
     :: atomic { phase[task] == waiting -> phase[task] = running };
        phase[task] = ended;
        post(task)
     :: else
     fi;
     atomic {
       task = 0;
       assert(pending > 0);
       pending--;
       if
#ifdef BUG_GIVEN_UP_TOO_LATE
       :: true -> handed_over++
#endif
       :: pending > 0 -> handed_over++
       :: else
       fi
     }
  od
}

proctype Canceller(byte task) {
  byte old;

  if
  :: atomic { phase[task] == waiting -> phase[task] = ended };
     post(task)
  :: else
  fi
}

proctype Reader() {
  byte letter, old, after;

end_reading:
  do
  :: atomic {
       bell ->
#ifndef BUG_BELL_STILLED_LATE
       bell = false
#endif
     };
     take_all(mailbox, letter);
     do
     :: letter != 0 -> atomic { comes_out(mailbox, letter); letter = link(mailbox, letter) }
     :: else -> break
     od;
#ifdef BUG_BELL_STILLED_LATE
     bell = false
#endif
  od
}

init {
  byte i;
  atomic {
    for (i : 1 .. WORKERS) { run Worker() };
    run Reader();
    run Submitter(1, 2);
    run Submitter(3, 3);
    run Canceller(1);
    i = 0
  };
  timeout;
  assert(_nr_pr == 2 + WORKERS);
  for (i : strand .. mailbox) { assert(pushes[i] == TASKS && takes[i] == TASKS && top[i] == 0) };
  assert(taken == 0 && pending == 0 && handed_over == 0)
}
