"""What a request holds while it is under way: a place of its key, bytes in memory, tokens of a quota.

    Admission   one request, from the moment its key is known, before its body is read, to the end of its reply
    Spending    the tokens of one answer: reserved before it runs, charged as they are made, settled at its end
    InFlight    the bytes of all requests' bodies and media; there is always room for somebody new

What it is not: the engine's queue, memory of the model.
"""

from herd.errors import Busy, fail
from herd.server.keys import Key


class InFlight:
    """Bytes of bodies and media of requests under way, of all keys.

    A key may hold as much as is left free for all others (dynamic thresholds: Choudhury and Hahne, 1998): one alone
    gets half of all, and however many have come before, who comes next finds room.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.held = 0
        """Bytes now."""

    def take(self, key: Key, count: int) -> None:
        """So many more of a key. Raises Busy."""
        if key.bytes_held + count > self._most - self.held - count:
            expected = "less, or later: a key may hold as many as are free"
            fail(Busy, f"bytes of key {key.name} under way", got=key.bytes_held + count, expected=expected)
        key.bytes_held += count
        self.held += count

    def give_back(self, key: Key, count: int) -> None:
        """So many are free again."""
        key.bytes_held -= count
        self.held -= count


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


class Admission:
    """A request under way. Raises Busy, QuotaSpent where its key may have no other one. Close it, however it ends."""

    def __init__(self, key: Key, at_once: int, memory: InFlight) -> None:
        key.enter(at_once)
        self._key, self._memory = key, memory
        self._open = True
        self.size_bytes = 0
        """That it holds."""
        self.goes_on = False
        """Whether it outlives its reply: somebody else closes it then."""

    def hold(self, count: int) -> None:
        """So many bytes more. Raises Busy."""
        self._memory.take(self._key, count)
        self.size_bytes += count

    def let_go(self, count: int | None = None) -> None:
        """So many bytes are held no longer; None: none are."""
        count = self.size_bytes if count is None else count
        self._memory.give_back(self._key, count)
        self.size_bytes -= count

    def close(self) -> None:
        """It is over."""
        if self._open:
            self._open = False
            self.let_go()
            self._key.leave()
