/* The loop of a worker: Worker::work and Worker::wait_for. A model includes parts.pml, says what run_task,
 * run_strand, take_from_strand and leave do, and includes this file. */

#define go_if_found(label) if :: found -> goto label :: else fi

proctype Worker(byte me) {
  byte strand, target;
#ifdef worker_locals
  worker_locals;
#endif
  bool found, yes, won, slept, awake;

  do
  :: leaving[me] -> break
  :: else ->
     looking_is_one_step { find(); go_if_found(execute) };

     /* Worker::wait_for. A look that finds nothing changes nothing: of those in spin_for only the last counts. */
     searching++;
search:
     looking_is_one_step { find(); go_if_found(found_in_search) };
#ifdef BUG_ANNOUNCE_LATE
     end_search();
     find();
     sleeping = sleeping | mask_of(me);
#else
     sleeping = sleeping | mask_of(me);
     atomic { end_search(); yes = false };
#ifndef BUG_NO_RESCAN
     find();
#endif
#endif
     if
#ifdef BUG_LEAVING_UNSEEN
     :: found ->
#else
     :: found || leaving[me] ->
#endif
        retract(me);
#ifdef BUG_TOKEN_LEFT_BEHIND
        won = true;
#endif
        if
        :: won -> won = false; wake_one_if_lanes_have_work()
        :: else -> await_token(false); found_while_searching()
        fi;
        atomic {
          awake = false;
          go_if_found(execute);
          break
        }
     :: else
     fi;

     await_token(surplus(me));
     if
     :: awake
     :: else ->
        retract(me);
#ifdef BUG_TOKEN_LEFT_BEHIND
        won = true;
#endif
        if
        :: won ->
           atomic { won = false; word[me] = none };
           find();
           atomic {
             go_if_found(execute);
             break
           }
        :: else -> await_token(false)
        fi
     fi;
     if
#ifdef BUG_LEAVES_SILENTLY
     :: atomic { leaving[me] -> awake = false }; end_search(); break
#else
     :: atomic { leaving[me] -> awake = false }; found_while_searching(); break
#endif
     :: atomic { else -> awake = false }; goto search
     fi;

found_in_search:
     found_while_searching();
execute:
     found = false;
     if
     :: strand == 0 -> run_task()
     :: else -> run_strand()
     fi
  od;
  leave();
  workers_left--
}
