"""Events on their way to a loop."""

import asyncio

from herd.engine.messages import StartedEvent
from herd.engine.outputs import TURN, Mailbox


def test_a_step_of_many_sequences_leaves_the_loop_time_for_other_work() -> None:
    async def turns_between() -> tuple[int, list[int]]:
        mailboxes = [Mailbox() for _ in range(8 * TURN)]
        for number, mailbox in enumerate(mailboxes):
            mailbox.put(StartedEvent(number, 0))
        turns = 0
        while not len(mailboxes[-1]):
            await asyncio.sleep(0)
            turns += 1
        return turns, [(await mailbox.get()).number for mailbox in mailboxes]

    turns, numbers = asyncio.run(turns_between())
    assert turns >= 8
    assert numbers == list(range(8 * TURN))


def test_events_that_come_meanwhile_keep_their_order() -> None:
    async def numbers() -> list[int]:
        mailbox = Mailbox()
        for number in range(2 * TURN):
            mailbox.put(StartedEvent(number, 0))
        await asyncio.sleep(0)
        for number in range(2 * TURN, 4 * TURN):
            mailbox.put(StartedEvent(number, 0))
        return [(await mailbox.get()).number for _ in range(4 * TURN)]

    assert asyncio.run(numbers()) == list(range(4 * TURN))
