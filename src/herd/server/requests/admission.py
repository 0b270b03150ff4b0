"""What a request holds while it is under way: a place of its key, bytes in memory, tokens of a quota.

    Admission   one request, from the moment its key is known, before its body is read, to the end of its reply
    Spending    the tokens of one answer: reserved before it runs, charged as they are made, settled at its end
    InFlight    the bytes of all requests' bodies, or of all answers; there is always room for somebody new

What it is not: the engine's queue, memory of the model.
"""

from herd.errors import Busy, TooLarge, fail
from herd.server.keys import Key


class InFlight:
    """Bytes that requests under way hold, of all keys. what: of what they are.

    A key may hold as much as is left free for all others (dynamic thresholds: Choudhury and Hahne, 1998): one alone
    gets half of all, and however many have come before, who comes next finds room.
    """

    def __init__(self, most_bytes: int, what: str = "bodies and images") -> None:
        self._most = most_bytes
        self._what = what
        self._of: dict[Key, int] = {}
        self.held = 0
        """Bytes now."""

    def of(self, key: Key) -> int:
        """Bytes that a key holds now."""
        return self._of.get(key, 0)

    def take(self, key: Key, count: int) -> None:
        """So many more of a key. Raises Busy, and TooLarge for more than one may ever hold."""
        if 2 * count > self._most:
            fail(TooLarge, f"{self._what} of one request", got=f"{count} bytes", expected=f"at most {self._most // 2}")
        mine = self.of(key) + count
        if mine > self._most - self.held - count:
            expected = "less, or later: a key may hold as many as are free"
            fail(Busy, f"bytes of {self._what} that key {key.name} holds", got=mine, expected=expected)
        self._of[key] = mine
        self.held += count

    def give_back(self, key: Key, count: int) -> None:
        """So many are free again."""
        self._of[key] -= count
        self.held -= count
        if not self._of[key]:
            del self._of[key]


class Holding:
    """Bytes that one request holds of those. On the event loop only."""

    def __init__(self, memory: InFlight, key: Key) -> None:
        self._memory, self._key = memory, key
        self.size_bytes = 0
        """That it holds."""

    def hold(self, count: int) -> None:
        """So many bytes more. Raises Busy, TooLarge."""
        if count:
            self._memory.take(self._key, count)
            self.size_bytes += count

    def let_go(self, count: int | None = None) -> None:
        """So many bytes are held no longer; None: none are."""
        count = self.size_bytes if count is None else count
        if count:
            self._memory.give_back(self._key, count)
            self.size_bytes -= count


class Spending:
    """Tokens of one answer. Raises QuotaSpent for a prompt that its key's quota does not hold now.

    prompt: its tokens, which are charged at once. most: that may be made. What a quota cannot set aside of them now is
    overdrawn when it is made, so a quota is exceeded by the rest of one answer at most.
    """

    def __init__(self, key: Key, prompt: int, most: int) -> None:
        key.check_quota(key.tokens, "tokens", prompt + min(most, 1))
        self._key = key
        self._made = 0
        self._reserved = key.tokens.reserve(prompt + most)
        self._take(prompt)

    def made(self, total: int) -> None:
        """So many have been made by now."""
        if total > self._made:
            self._take(total - self._made)
            self._made = total

    def settle(self) -> None:
        """No more are made: what was set aside for them is free."""
        self._key.tokens.give_back(self._reserved)
        self._reserved = 0

    def _take(self, count: int) -> None:
        aside = min(count, self._reserved)
        self._key.tokens.give_back(aside)
        self._reserved -= aside
        self._key.tokens.take(count)


class Admission(Holding):
    """A request under way. Raises Busy, QuotaSpent where its key may have no other one. Close it, however it ends.

    asked: the bytes of all requests. made: those of all answers.
    """

    def __init__(self, key: Key, at_once: int, asked: InFlight, made: InFlight) -> None:
        key.enter(at_once)
        super().__init__(asked, key)
        self.made = Holding(made, key)
        """What it holds of the answers: its prompt as the engine knows it, and what comes of it until that is sent."""
        self._open = True
        self.goes_on = False
        """Whether it outlives its reply: somebody else closes it then."""

    def close(self) -> None:
        """It is over."""
        if self._open:
            self._open = False
            self.let_go()
            self.made.let_go()
            self._key.leave()
