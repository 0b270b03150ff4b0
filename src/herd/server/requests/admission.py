"""The resources of a request under way: a place of its key, bytes in memory, tokens of a quota.

    Admission   one request, from the moment its key is known, before its body is read, to the end of its reply
    Spending    the tokens of one answer: reserved before it runs, charged as they are made, settled at its end
    InFlight    the bytes of all requests' bodies, or of all answers; there is always room for somebody new

What it is not: the engine's queue, memory of the model.
"""

from herd.errors import Busy, TooLarge, fail
from herd.server.keys import Key


class InFlight:
    """Bytes that requests under way hold, of all keys together. what: what the bytes are of, for errors.

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
        """Number of bytes that a key holds now."""
        return self._of.get(key, 0)

    def take(self, key: Key, count: int) -> None:
        """Count so many more bytes for a key. Raises Busy, and TooLarge for more than one key may ever hold."""
        if 2 * count > self._most:
            fail(TooLarge, f"{self._what} of one request", got=f"{count} bytes", expected=f"at most {self._most // 2}")
        mine = self.of(key) + count
        if mine > self._most - self.held - count:
            expected = "less, or later: a key may hold as many as are free"
            fail(Busy, f"bytes of {self._what} that key {key.name} holds", got=mine, expected=expected)
        self._of[key] = mine
        self.held += count

    def give_back(self, key: Key, count: int) -> None:
        """Count so many bytes less for a key."""
        self._of[key] -= count
        self.held -= count
        if not self._of[key]:
            del self._of[key]


class Holding:
    """The bytes that one request holds of an InFlight. Use it on the event loop only."""

    def __init__(self, memory: InFlight, key: Key) -> None:
        self._memory, self._key = memory, key
        self.size_bytes = 0
        """Bytes that the request holds."""

    def hold(self, count: int) -> None:
        """Reserve so many more bytes. Raises Busy, TooLarge."""
        if count:
            self._memory.take(self._key, count)
            self.size_bytes += count

    def let_go(self, count: int | None = None) -> None:
        """Release so many bytes; None: all of them."""
        count = self.size_bytes if count is None else count
        if count:
            self._memory.give_back(self._key, count)
            self.size_bytes -= count


class Spending:
    """The tokens of one answer. Raises QuotaSpent for a prompt that its key's quota cannot pay now.

    prompt: its tokens, which are charged at once. most: tokens that may be made. What the quota cannot reserve of them
    now is overdrawn when it is made, so a quota is exceeded by the rest of one answer at most.
    """

    def __init__(self, key: Key, prompt: int, most: int) -> None:
        key.check_quota(key.tokens, "tokens", prompt + min(most, 1))
        self._key = key
        self._made = 0
        self._reserved = key.tokens.reserve(prompt + most)
        self._take(prompt)

    def made(self, total: int) -> None:
        """Charge the tokens that have been made; total: all of them so far."""
        if total > self._made:
            self._take(total - self._made)
            self._made = total

    def settle(self) -> None:
        """End the answer: give back what was reserved for tokens that were not made."""
        self._key.tokens.give_back(self._reserved)
        self._reserved = 0

    def _take(self, count: int) -> None:
        aside = min(count, self._reserved)
        self._key.tokens.give_back(aside)
        self._reserved -= aside
        self._key.tokens.take(count)


class Admission(Holding):
    """A request that has been admitted. Raises Busy, QuotaSpent where its key may not have another one. Close it,
    however it ends.

    asked: the bytes of all requests. made: those of all answers.
    """

    def __init__(self, key: Key, at_once: int, asked: InFlight, made: InFlight) -> None:
        key.enter(at_once)
        super().__init__(asked, key)
        self.made = Holding(made, key)
        """Bytes that it holds of the answers: its prompt as the engine knows it, and what comes of it until that is
        sent."""
        self._open = True
        self.goes_on = False
        """Whether it outlives its reply: somebody else closes it then."""

    def close(self) -> None:
        """End the request and release everything that it holds."""
        if self._open:
            self._open = False
            self.let_go()
            self.made.let_go()
            self._key.leave()
