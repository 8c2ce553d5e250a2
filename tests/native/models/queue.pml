/* The bounded queue of pool/queue.hpp: turns, exact capacity, one claim an element. */

#ifdef BUG_RING_OF_ONE
#define RING 1
#define CAPACITY 1
#endif
#ifndef RING
#define RING 2
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef PUSHES
#define PUSHES 2 /* of each producer */
#endif
#define PRODUCERS 2
#define CONSUMERS 2
#define TOTAL (PRODUCERS * PUSHES)

byte turn[RING];
byte storage[RING];      /* 0: raw memory */
byte head, tail;

/* What the queue does not know itself, by place. */
byte claimed[TOTAL + 1]; /* the element, once a push has claimed the place */
bool whole[TOTAL + 1];   /* its push is over */
bool back[TOTAL + 1];    /* its pop is over */
byte inside;             /* claimed by a push and not given back by a pop */
byte taken;

#define room_at(place) (place < CAPACITY || back[place - CAPACITY])

proctype Producer(byte element) {
  byte at, left = PUSHES;
  bool room, refuse;

  do
  :: left > 0 ->
     at = tail;
     do
     :: atomic { room = (turn[at % RING] == at); refuse = !room_at(at) };
#if CAPACITY < RING && !defined(BUG_NO_ROOM_CHECK)
        if
        :: room -> /* the element `CAPACITY` places before has been popped */
           atomic {
             room = (turn[(at + RING - CAPACITY) % RING] >= at + RING - CAPACITY);
             refuse = !room_at(at)
           }
        :: else
        fi;
#endif
        if
        :: room ->
           atomic {
             if
#ifdef BUG_BLIND_CLAIM
             :: true ->
#else
             :: tail == at ->
#endif
                room = false;
                assert(claimed[at] == 0);
                claimed[at] = element;
                tail = at + 1;
                inside++;
                assert(inside <= CAPACITY)
             :: else -> at = tail; room = false; goto again
             fi
           };
#ifdef BUG_PUBLISH_EARLY
           turn[at % RING] = at + 1;
#endif
           atomic {
             assert(storage[at % RING] == 0); /* nothing is overwritten */
             storage[at % RING] = element
           };
           atomic {
#ifndef BUG_PUBLISH_EARLY
             turn[at % RING] = at + 1;
#endif
             whole[at] = true;
             at = 0;
             element++;
             left--
           };
           break
        :: else ->
           atomic {
             if
             :: tail != at -> at = tail; refuse = false
             :: else ->
                assert(refuse); /* only if it has to: that element was still inside */
                at = 0;
                refuse = false;
                goto no_room
             fi
           }
        fi;
again:  skip
     od;
     goto next;
no_room: room_at(tail); /* the caller tries again when there is room */
next: skip
  :: else -> break
  od
}

proctype Consumer() {
  byte at;
  bool found, refuse;

  do
  :: taken < TOTAL ->
     at = head;
     do
     :: atomic { found = (turn[at % RING] == at + 1); refuse = !whole[at] };
        if
        :: found ->
           atomic {
             found = false;
             refuse = false;
             if
             :: head == at -> head = at + 1
             :: else -> at = head; goto again
             fi
           };
#ifdef BUG_RETURN_BEFORE_READ
           atomic { turn[at % RING] = at + RING; back[at] = true; inside-- };
#endif
           atomic {
             assert(storage[at % RING] != 0 && storage[at % RING] == claimed[at]); /* first in, first out */
             storage[at % RING] = 0;
             taken++
           };
           atomic {
#ifndef BUG_RETURN_BEFORE_READ
             turn[at % RING] = at + RING;
             back[at] = true;
             inside--;
#endif
             at = 0
           };
           break
        :: else ->
           atomic {
             if
             :: head != at -> at = head; refuse = false
             :: else ->
                assert(refuse); /* empty, or the oldest element is still being pushed */
                at = 0;
                refuse = false;
                goto nothing
             fi
           }
        fi;
again:  skip
     od;
     goto next;
nothing: (taken == TOTAL || whole[head]);
next: skip
  :: else -> break
  od
}

init {
  byte i;
  atomic {
    for (i : 0 .. RING - 1) { turn[i] = i };
    for (i : 1 .. PRODUCERS) { run Producer(1 + (i - 1) * PUSHES) };
    for (i : 1 .. CONSUMERS) { run Consumer() };
    i = 0
  };
  /* Nobody can go on: everything has been taken once, and every process has ended. */
  timeout;
  assert(_nr_pr == 1);
  assert(taken == TOTAL && inside == 0 && head == TOTAL && tail == TOTAL)
}
