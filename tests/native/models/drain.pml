/* Pool::drain: once it says that all has ended, all that was accepted before it began has; also while submissions that
 * began before the pool was closed are still under way. */

#define SESSIONS 2

/* One task goes through a lane, the others through one strand. */

bool open_ = true;
byte tail, listed_lane;     /* claimed, and whole */
byte listed, pending;       /* the strand: pushed and not taken; counted in */
bool scheduled;
byte strand_accepted;
byte ended[2];              /* by worker */

byte over, returned;        /* sets of tasks */

/* The strand's tasks are told apart by the order in which they are pushed. */
byte pushed[SESSIONS], pushes, takes;

proctype Submitter() {
  if
  :: open_ -> tail++; listed_lane++; returned = returned | 1
  :: else
  fi
}

proctype Session(byte task) {
  bool first;

  if
  :: open_ ->
#ifndef BUG_COUNTED_AFTER_PUSH
     strand_accepted++;
     if
     :: true -> strand_accepted--; goto full_strand
     :: true -> skip
     fi;
#endif
     atomic { pushed[pushes] = task; pushes++; listed++ };
     atomic { first = (pending == 0); pending++ };
#ifdef BUG_COUNTED_AFTER_PUSH
     strand_accepted++;
#endif
     if
     :: first -> scheduled = true
     :: else
     fi;
     returned = returned | (1 << task)
  :: else
  fi;
full_strand: skip
}

proctype LaneWorker() {
end_waiting:
  do
  :: atomic { listed_lane > 0 -> listed_lane-- };
     over = over | 1;
     ended[0]++
  od
}

proctype StrandWorker() {
  byte task;

end_waiting:
  do
  :: atomic { scheduled -> scheduled = false };
     do
     :: atomic { assert(listed > 0); listed--; task = pushed[takes]; takes++ };
        over = over | (1 << task);
        ended[1]++;
        atomic {
          task = 0;
          pending--;
          if
          :: pending == 0 -> break
          :: else
          fi
        }
     od
  od
}

inline read_accepted() { accepted = tail; accepted = accepted + strand_accepted }
inline read_ended() { sum = ended[0]; sum = sum + ended[1] }

proctype Drain() {
  byte before, sum, accepted;

  open_ = false;
  before = returned;
  do
  :: true ->
#ifdef BUG_ACCEPTED_READ_FIRST
     read_accepted();
     read_ended();
#else
     read_ended();
     read_accepted();
#endif
     if
     :: sum >= accepted -> break
     :: else /* looks again after a while */
     fi
  od;
  assert((before & over) == before)
}

init {
  byte i;
  atomic {
    run LaneWorker();
    run StrandWorker();
    run Drain();
    run Submitter();
    for (i : 1 .. SESSIONS) { run Session(i) };
    i = 0
  };
  timeout;
  assert(_nr_pr == 3);
  assert(returned == over)
}
