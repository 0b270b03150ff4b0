"""All connections of a service, by what each of them does: how many there may be, and which goes when all places are
taken.

    LINGERS    answered, its client still sends            goes first
    IDLE       answered, no further request has begun      then the one that has been so longest
    HEAD       new, or a head has begun                    likewise: whoever just came is the last of them
    OPENS      it is about to be heard, in a few turns     stays: there are few of them
    UPLOADS    a body is coming, nothing answered          of whoever has most of them the slowest; told so
    WORKS      computed or answered                        stays

Requests that have begun (UPLOADS, WORKS) leave a share of the places to the others, so that a newcomer is always heard.
Each choice looks at a bounded number of connections.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from enum import Enum
from itertools import islice
from typing import Protocol

SCAN = 64
"""Connections that are compared for one that has to go, those first that have been longest as they are."""


class ConnectionState(Enum):
    """The states of a connection."""

    LINGERS = 0
    IDLE = 1
    HEAD = 2
    OPENS = 3
    UPLOADS = 4
    WORKS = 5


class Member(Protocol):
    """A connection as the crowd sees it."""

    peer: Hashable
    """The address of its client."""
    owner: Hashable
    """Whom its request is for: the address, and what it named as its key."""

    def rate(self) -> float:
        """Speed of the body that it sends, in bytes a second."""

    def cut(self) -> None:
        """Close it now, without an answer."""

    def give_way(self) -> None:
        """Answer that there is no place for its body, and close it."""


class Crowd:
    """The connections of a service; see the module. most: places. share: 1 / share of them is not for requests that
    have begun."""

    def __init__(self, most: int, share: int) -> None:
        self.most = most
        self.busiest = max(1, most - max(1, most // share))
        """Requests that may be under way."""
        self._states: dict[Member, ConnectionState] = {}
        self._all: dict[ConnectionState, dict[Member, None]] = {state: {} for state in ConnectionState}
        self._uploads: dict[Hashable, dict[Member, None]] = {}
        self._peers: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._states)

    @property
    def free(self) -> int:
        """Number of places that are free, or whose client has been answered."""
        return max(0, self.most - len(self)) + self.count(ConnectionState.LINGERS)

    def count(self, state: ConnectionState) -> int:
        """Number of connections in this state."""
        return len(self._all[state])

    def state_of(self, member: Member) -> ConnectionState | None:
        """The state of a connection; None: it is gone."""
        return self._states.get(member)

    def move(self, member: Member, state: ConnectionState) -> None:
        """Set the state of a connection, as the latest in it; a new connection is counted."""
        if member in self._states:
            self._forget(member)
        else:
            self._peers[member.peer] += 1
        self._states[member] = state
        self._all[state][member] = None
        if state is ConnectionState.UPLOADS:
            self._uploads.setdefault(member.owner, {})[member] = None

    def leave(self, member: Member) -> None:
        """Remove a connection that is gone."""
        if member in self._states:
            self._forget(member)
            del self._states[member]
            self._peers[member.peer] -= 1
            if not self._peers[member.peer]:
                del self._peers[member.peer]

    def admit(self, member: Member) -> bool:
        """Whether a place can be had for the request that `member` begins; the slowest upload gives way where it
        must."""
        if self.count(ConnectionState.UPLOADS) + self.count(ConnectionState.WORKS) < self.busiest:
            return True
        return self._slowest_gives_way()

    def make_room(self, places: int, keep: Member | None = None) -> int:
        """Close up to `places` connections that do nothing, but not `keep`; returns how many."""
        for closed in range(places):
            found = next(self._doing_nothing(keep), None)
            if found is None:
                return closed
            found.cut()
            self.leave(found)
        return places

    def make_room_for(self, newcomer: Member) -> bool:
        """Whether `newcomer`, which is counted already, has a place; another connection gives way, if need be."""
        over = len(self) - self.most
        if over <= 0 or self.make_room(over, newcomer) == over:
            return True
        return self._slowest_gives_way()

    def _doing_nothing(self, keep: Member | None) -> Iterator[Member]:
        for state in (ConnectionState.LINGERS, ConnectionState.IDLE, ConnectionState.HEAD):
            first = [member for member in islice(self._all[state], SCAN + 1) if member is not keep]
            if first:
                yield max(first, key=lambda member: self._peers[member.peer])

    def _slowest_gives_way(self) -> bool:
        if not self._uploads:
            return False
        most = max(self._uploads.values(), key=len)
        found = min(islice(most, SCAN), key=lambda member: member.rate())
        found.give_way()
        self.leave(found)
        return True

    def _forget(self, member: Member) -> None:
        state = self._states[member]
        del self._all[state][member]
        if state is ConnectionState.UPLOADS:
            mine = self._uploads[member.owner]
            del mine[member]
            if not mine:
                del self._uploads[member.owner]
