"""One sequence at a time: requests -> tokens, behind submit / stream / cancel.

    submit   checks everything that can be wrong, so that a stream never starts with a mistake
    stream   prefill in pieces, then one token a pass: logits -> sampler -> decoder -> stop strings
    cancel   from any thread; the stream ends with "interrupted" after the pass in progress

The sequence last served stays in the cache; a request that begins with the same ids (the next turn of a chat) computes
only what is new. Images count as the same when their tiles' bytes are the same. What it is not: a schedule; several
requests wait for one another here.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from herd.cache import Lease
from herd.engine.request import Finish, Request, Step, Timings, TokenLogprob, Usage
from herd.engine.runner import Logits, ModelRunner, Piece
from herd.engine.sampler import History, logprob, sample
from herd.engine.stops import Stops
from herd.engine.trace import RoutingLog
from herd.errors import ContextTooLong, UsageError, fail

Reason = Literal["stop", "length", "interrupted"]


class Decoder(Protocol):
    """Ids to text while they are being made (herd.text.StreamDecoder)."""

    def push(self, token_id: int) -> str:
        """Whole characters that this id completes."""

    def flush(self) -> str:
        """What is left at the end."""


@dataclass
class Job:
    """A request on its way: what `submit` gives out."""

    request: Request
    keys: list[Any]
    """What must agree for a position to be taken from the cache: its id, or its image tile's digest."""
    routing: RoutingLog | None = None
    """Gets the experts of every token; the whole prompt is computed anew for it."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted_s: float = field(default_factory=time.monotonic)
    history: History = field(default_factory=History)
    num_output: int = 0
    num_cached: int = 0
    prefill_s: float = 0.0
    first_s: float | None = None
    last_s: float = 0.0

    def finish(self, reason: Reason) -> Finish:
        """Counts and times as they stand."""
        num_prompt = len(self.request.ids)
        decode_s = self.last_s - self.first_s if self.first_s is not None else 0.0
        return Finish(
            reason,
            Usage(num_prompt, self.num_output, self.num_cached),
            Timings(
                prefill_s=self.prefill_s,
                decode_s=decode_s,
                first_token_s=self.first_s - self.submitted_s if self.first_s is not None else 0.0,
                prefill_tps=(num_prompt - self.num_cached) / self.prefill_s if self.prefill_s else 0.0,
                decode_tps=(self.num_output - 1) / decode_s if decode_s else 0.0,
            ),
        )


class Engine:
    """Serves requests one after another.

    runner: the model and its cache. decoder: makes a fresh id-to-text decoder. end_ids: ids that end a text. piece:
    the most prompt rows of one pass.
    """

    def __init__(
        self,
        runner: ModelRunner,
        decoder: Callable[[], Decoder],
        end_ids: Collection[int] = (),
        *,
        piece: int = 512,
    ) -> None:
        assert piece > 0, piece
        self.runner = runner
        self._decoder = decoder
        self._end_ids = frozenset(end_ids)
        self._piece = piece
        self._turn = threading.Lock()
        self._owner: int | None = None
        self._lease: Lease | None = None
        self._keys: list[Any] = []
        """Keys of the positions that the kept sequence holds."""

    # -- the three verbs ---------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Job:
        """Check a request and queue it. Raises UsageError and ContextTooLong; nothing is ever truncated."""
        ids, options, context = request.ids, request.options, self.runner.context
        if not len(ids):
            fail(UsageError, "prompt", got="no tokens", expected="at least one")
        for i in ids:
            if not 0 <= i < self.runner.vocab_size:
                fail(UsageError, "prompt", got=f"id {i}", expected=f"ids from 0 to {self.runner.vocab_size - 1}")
        if len(ids) > context:
            fail(
                ContextTooLong,
                f"the prompt has {len(ids)} tokens, the context holds {context}",
                do="shorten it, or load the model with a larger context",
            )
        if options.max_tokens is not None and options.max_tokens > context:
            fail(UsageError, "max_tokens", got=options.max_tokens, expected=f"at most the context, {context}")
        options.fits(self.runner.vocab_size)
        return Job(request, self._position_keys(request), history=History(list(ids)))

    def stream(self, job: Job) -> Generator[Step, None, None]:
        """The steps of a submitted request; the last one has `finish`. Closing the iterator ends the request.

        Waits while another thread's request runs. Raises UsageError when this thread itself holds an unfinished one.
        """
        self._take_turn()
        try:
            yield from self._run(job)
        finally:
            self._give_turn()

    def cancel(self, job: Job) -> None:
        """End a request after the pass in progress; one that is over stays as it was."""
        job.cancelled.set()

    # -- one request -------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        if not self._turn.acquire(blocking=False):
            if self._owner == threading.get_ident():
                fail(
                    UsageError, "another answer is still being streamed here", do="read it to its end or close it first"
                )
            self._turn.acquire()
        self._owner = threading.get_ident()

    def _give_turn(self) -> None:
        self._owner = None
        self._turn.release()

    def _run(self, job: Job) -> Iterator[Step]:
        text = _Text(self._decoder(), Stops(job.request.options.stop))
        try:
            logits_V = self._prefill(job)
            while logits_V is not None and not job.cancelled.is_set():
                step, token_id = self._next(job, text, logits_V)
                yield step
                if step.finish is not None:
                    return
                logits_V = self._decode(job, token_id)
        except KeyboardInterrupt:
            pass  # what was said stays said
        yield Step(None, text.end(), finish=job.finish("interrupted"))

    def _next(self, job: Job, text: "_Text", logits_V: Logits) -> tuple[Step, int]:
        """Choose a token from the logits and say what it means."""
        options = job.request.options
        token_id = sample(logits_V, options, job.history, job.request.seed, job.num_output)
        now = time.monotonic()
        job.first_s = now if job.first_s is None else job.first_s
        job.last_s = now
        job.num_output += 1
        job.history.add(token_id)
        chosen: TokenLogprob | None = None
        if options.logprobs is not None:
            chosen = logprob(logits_V, token_id, options.logprobs)
        ended = token_id in options.stop_ids or (token_id in self._end_ids and not options.ignore_eos)
        shown = "" if ended else text.push(token_id)
        reason: Reason | None = None
        if ended or text.stopped:
            reason = "stop"
        elif job.num_output == options.max_tokens or len(job.history.ids) > self.runner.context:
            reason = "length"
        if reason is None:
            return Step(token_id, shown, chosen), token_id
        return Step(token_id, shown + text.end(), chosen, job.finish(reason)), token_id

    # -- passes ------------------------------------------------------------------------------------------------------

    def _prefill(self, job: Job) -> Logits | None:
        """Logits after the prompt; None when cancelled on the way."""
        ids = job.request.ids
        start = self._reuse(job)
        job.num_cached = start
        began_s = time.monotonic()
        features_RD, is_patch_T = None, None
        if job.request.pixels_I3SS is not None and len(job.request.pixels_I3SS):
            is_patch_T = np.asarray(ids) == self.runner.patch_id
            # images whose rows are all in the cache need not be looked at again
            if is_patch_T[start:].any():
                features_RD = self.runner.see(job.request.pixels_I3SS)
        while True:
            end = min(start + self._piece, len(ids))
            seen_RD = None
            if features_RD is not None and is_patch_T is not None:
                first, last = int(is_patch_T[:start].sum()), int(is_patch_T[:end].sum())
                seen_RD = features_RD[first:last] if last > first else None
            last_V = self._pass(job, ids[start:end], seen_RD, None if end == len(ids) else ())
            self._keys += job.keys[start:end]
            job.prefill_s = time.monotonic() - began_s
            start = end
            if start == len(ids):
                return last_V
            if job.cancelled.is_set():
                return None

    def _decode(self, job: Job, token_id: int) -> Logits:
        logits_V = self._pass(job, [token_id], None, None)
        self._keys.append(token_id)
        return logits_V

    def _pass(self, job: Job, ids: Sequence[int], features_RD: Any, rows: Sequence[int] | None) -> Logits:
        """One pass of the kept sequence; logits of its last row when they are wanted."""
        assert self._lease is not None
        logits_RV = self.runner.run([Piece(self._lease, ids, features_RD, rows)], job.routing)
        last_V: Logits = logits_RV[-1] if len(logits_RV) else logits_RV
        return last_V

    # -- the kept sequence -------------------------------------------------------------------------------------------

    def _position_keys(self, request: Request) -> list[Any]:
        keys: list[Any] = list(request.ids)
        tiles = request.pixels_I3SS
        rows = [t for t, i in enumerate(keys) if i == self.runner.patch_id]
        given = 0 if tiles is None else len(tiles)
        if given and self.runner.patch_id is None:
            fail(UsageError, "an image was given to a text model", do="choose a model with vision")
        if len(rows) != given * self.runner.tokens_per_tile:
            fail(
                UsageError,
                "image tokens in the prompt",
                got=len(rows),
                expected=f"{self.runner.tokens_per_tile} for each of {given} tiles",
            )
        for n, t in enumerate(rows):
            tile, place = divmod(n, self.runner.tokens_per_tile)
            if place == 0:
                assert tiles is not None
                digest = hashlib.sha256(np.ascontiguousarray(tiles[tile]).tobytes()).hexdigest()
            keys[t] = (digest, place)
        return keys

    def _reuse(self, job: Job) -> int:
        """Roll the kept sequence back to what it shares with this request, or begin a new one; return its length.

        At least the last token of the prompt is computed, for its logits; a traced request is computed whole.
        """
        if self._lease is None:
            self._lease = self.runner.lease()
        most = 0 if job.routing is not None else min(len(self._keys), len(job.keys) - 1)
        shared = next((t for t in range(most) if self._keys[t] != job.keys[t]), most)
        kept = self.runner.rollback(self._lease, min(shared, self._lease.length))
        del self._keys[kept:]
        return kept

    @contextmanager
    def alone(self) -> Iterator[ModelRunner]:
        """The runner, with all of its cache, to the exclusion of requests (logits and likelihood of given text)."""
        self._take_turn()
        try:
            self._forget()
            yield self.runner
        finally:
            self._give_turn()

    def _forget(self) -> None:
        """Give back the kept sequence's pages."""
        if self._lease is not None:
            self.runner.drop(self._lease)
            self._lease = None
            self._keys = []


class _Text:
    """Ids -> text that may be shown."""

    def __init__(self, decoder: Decoder, stops: Stops) -> None:
        self._decoder, self._stops = decoder, stops

    def push(self, token_id: int) -> str:
        return self._stops.push(self._decoder.push(token_id))

    def end(self) -> str:
        """All that is left, unless a stop string was found, in it as well."""
        return self._stops.push(self._decoder.flush()) + self._stops.finish()

    @property
    def stopped(self) -> bool:
        return self._stops.hit is not None
