"""The waist: text and images in, text out. The only door from people's words to token ids.

    with herd.load("smollm2") as model:
        print(model.chat("What is photosynthesis?").text)
        for event in model.stream("Tell me more.", temperature=0):
            ...

What it is not: a server, a command line, a policy. Options are the fields of `engine.request.SamplingOptions`.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from herd.config import Llama4Config
from herd.engine.request import SamplingOptions
from herd.replies import Event, Message, Perplexity, Policy, Reply

ImageLike: TypeAlias = str | Path | bytes
Dialog: TypeAlias = str | Sequence[Message | Mapping[str, Any]]
"""A user's text, or turns: Message, or {"role": "user", "content": "..." or parts}, where parts are
{"type": "text", "text": ...} and {"type": "image", "image": path or bytes}."""


def load(
    model: str | Path,
    *,
    context: int | None = None,
    chat_format: str | None = None,
    threads: int | None = None,
    ops: Literal["auto", "native", "torch"] = "auto",
    kv: Literal["auto", "f32", "f16", "bf16"] = "auto",
    force: bool = False,
) -> "LLM":
    """Load a model by name or path.

    context: tokens a sequence may have, prompt and answer; None: the model's own, or the largest of 8192 and what the
    memory takes. chat_format: a name of `herd.text.chat`, when the checkpoint's is unknown. threads: of the native
    ops; None: the processor's cores. kv: element type of the cache. force: load even if it seems not to fit.
    Raises NotFound, BadFile and its kinds, DoesNotFit, UsageError.
    """
    raise NotImplementedError


class LLM:
    """A loaded model. Close it, or use it in `with`. One answer at a time; further calls wait."""

    config: Llama4Config
    name: str
    context: int
    """Tokens a sequence may have."""
    chat_format: str
    defaults: SamplingOptions
    """What `chat` and `stream` use where a call says nothing."""
    load_s: float

    def chat(
        self,
        messages: Dialog,
        *,
        system: str | None = None,
        images: Sequence[ImageLike] = (),
        policy: Policy | None = None,
        trace: str | Path | None = None,
        **options: Any,
    ) -> Reply:
        """Answer a dialog. Images go before the text of the last user turn. trace: a file that gets the routing, as
        JSON lines. Raises UsageError, ContextTooLong, BadMedia. Ctrl-C returns what was said, "interrupted"."""
        raise NotImplementedError

    def stream(
        self,
        messages: Dialog,
        *,
        system: str | None = None,
        images: Sequence[ImageLike] = (),
        policy: Policy | None = None,
        trace: str | Path | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """As `chat`, piece by piece; the last event is a DoneEvent. Arguments are checked at the call, not at the
        first piece. Closing the iterator cancels the request; Ctrl-C ends it with "interrupted"."""
        raise NotImplementedError

    def complete(self, prompt: str | Sequence[int], *, trace: str | Path | None = None, **options: Any) -> Reply:
        """Go on with raw text (or ids); no chat format."""
        raise NotImplementedError

    def stream_complete(
        self, prompt: str | Sequence[int], *, trace: str | Path | None = None, **options: Any
    ) -> Iterator[Event]:
        """As `complete`, piece by piece."""
        raise NotImplementedError

    def chat_many(self, dialogs: Sequence[Dialog], *, system: str | None = None, **options: Any) -> list[Reply]:
        """Answer several dialogs, in their order."""
        raise NotImplementedError

    async def achat(self, messages: Dialog, **arguments: Any) -> Reply:
        """`chat` on a thread."""
        raise NotImplementedError

    def astream(self, messages: Dialog, **arguments: Any) -> AsyncIterator[Event]:
        """`stream` on a thread; leaving the loop cancels the request."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without specials."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        raise NotImplementedError

    def count(self, messages: Dialog | str) -> int:
        """Tokens of a plain text, or of a dialog as `chat` would send it."""
        raise NotImplementedError

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[T, V], float32: after each id, the logits of the next."""
        raise NotImplementedError

    def perplexity(
        self, text: str | Sequence[int], *, context: int | None = None, stride: int | None = None
    ) -> Perplexity:
        """exp of the mean negative log-likelihood. Windows of `context` tokens (None: the model's) every `stride`
        (None: context); in each the tokens are scored that no window scored before."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back memory and threads."""
        raise NotImplementedError

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
