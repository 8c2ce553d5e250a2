"""Work on the pool: calls that wait elsewhere, deadlines, backpressure, sessions, and how the pool stands."""

from concurrent.futures import as_completed

import dspex
from dspex import demo
from dspex.errors import PoolSaturated


def main() -> None:
    train, unseen = demo.split()
    program = dspex.fit("text -> label", train)
    rows = [{"text": row["text"]} for row in unseen]

    # A batch uses the process's own pool and the calling thread; nothing has to be made or closed.
    answers = program.batch(rows)
    print(f"{len(answers)} answers, the first: {answers[0].label}")

    with dspex.Pool(size=2, capacity=64, policy="reject") as pool:
        # A call is handed over; its future is one of concurrent.futures.
        future = pool.submit(program, rows[0], timeout=0.5)  # not begun within 0.5 s: CallTimeoutError
        print(future.result().label)

        # When the pool is full it says when to come again.
        futures = []
        for row in rows:
            try:
                futures.append(pool.submit(program, row))
            except PoolSaturated as full:
                print(f"full after {len(futures)} calls, room again in about {full.retry_after:.3f} s")
                break
        print(f"{sum(f.result() is not None for f in as_completed(futures))} calls have ended")

        # The calls of a session run in their order, one at a time, on one worker.
        session = pool.session("rider-17")
        session.data["greeted"] = True
        for row in rows[:3]:
            print(session.call(program, row).label)

        stats = pool.stats()
        print(f"{stats.total.done} done, waited {stats.wait.percentile(50) * 1e6:.1f} us in the middle")


if __name__ == "__main__":
    main()
