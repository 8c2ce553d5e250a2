"""On an event loop: many calls at once with bounded concurrency, and nothing that holds up the loop."""

import asyncio
from collections.abc import AsyncIterator

import dspex
from dspex import demo


async def messages(rows: list[dict[str, str]]) -> AsyncIterator[dict[str, str]]:
    for row in rows:
        yield {"text": row["text"]}


async def main() -> None:
    train, unseen = demo.split()
    program = dspex.fit("text -> label", train)

    # Short texts are answered at once: that takes less time than handing them over. Long ones go to the pool.
    answer = await program.acall(text="The brakes do not grip any more")
    print(answer.label)

    async with asyncio.timeout(30):
        with dspex.Pool(size=2) as pool:
            seen = 0
            # At most 32 calls are under way; a slow consumer slows the source. Results come in order.
            async for answer in pool.amap(program, messages(unseen), concurrency=32, timeout=1.0):
                seen += (answer.confidence or 0) > 0.5
            print(f"{seen} sure answers")

            # Cancelling a task cancels its call, if that has not begun.
            task = asyncio.create_task(pool.acall(program, {"text": "Where is my deposit?"}))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
