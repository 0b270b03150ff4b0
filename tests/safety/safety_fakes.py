"""A judge that says what a test wants."""

from collections.abc import Callable, Sequence

from herd.safety.guard import GuardAnswer
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()


class FakeJudge:
    """says: the answer, what makes it of a prompt's text, or the error that it raises."""

    def __init__(self, says: str | GuardAnswer | Exception | Callable[[str], str]) -> None:
        self._says = says
        self.prompts: list[str] = []
        self.ids: list[list[int]] = []

    def encode(self, text: str) -> list[int]:
        return BYTES.encode(text)

    def special(self, name: str) -> int:
        return BYTES.specials[f"<|{name}|>"]

    def answer(self, ids: Sequence[int], timeout_s: float) -> GuardAnswer:
        self.ids.append(list(ids))
        self.prompts.append(BYTES.decode(ids))
        if isinstance(self._says, Exception):
            raise self._says
        if isinstance(self._says, GuardAnswer):
            return self._says
        return GuardAnswer(self._says if isinstance(self._says, str) else self._says(self.prompts[-1]))
