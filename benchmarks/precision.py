"""What the rules of `herd.safety` find in ordinary text. What they miss: `planted.py`.

    python benchmarks/precision.py finds FOLDER              per rule: finds a million characters, by kind of text
    python benchmarks/precision.py sample FOLDER RULE [N]    N of its finds with what stands around them, to be judged

FOLDER holds a folder for each kind of text, with files (`precision_corpus.py` builds one). Whether a find is true a
person says, who looks at the sample: a value that the rule's name means, made up or not, is true.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from herd.safety import RULES, RuleMatch, scan


def kinds(folder: Path) -> dict[str, list[str]]:
    """The texts of each kind."""
    return {
        kind.name: [path.read_text(encoding="utf-8") for path in sorted(kind.glob("*.txt"))]
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and any(kind.glob("*.txt"))
    }


def found(folder: Path) -> Iterator[tuple[str, str, RuleMatch]]:
    """Kind, text, find. Texts are looked at as they come from outside."""
    for kind, texts in kinds(folder).items():
        for text in texts:
            for find in scan(text, RULES, "tool"):
                yield kind, text, find


def finds(folder: Path) -> None:
    """The table of finds."""
    sizes = {kind: sum(map(len, texts)) for kind, texts in kinds(folder).items()}
    began = time.process_time()
    counts = Counter((find.rule.id, kind) for kind, _, find in found(folder))
    took = time.process_time() - began
    total = sum(sizes.values())
    print(f"{total:,} characters in {len(sizes)} kinds, {took / total * 1e6:.2f} s a million characters")
    for rule in RULES:
        by_kind = {kind: counts[rule.id, kind] for kind in sizes if counts[rule.id, kind]}
        if by_kind:
            shown = ", ".join(f"{kind} {n}" for kind, n in sorted(by_kind.items(), key=lambda item: -item[1]))
            print(f"{rule.id:24} {sum(by_kind.values()):6} {sum(by_kind.values()) / total * 1e6:8.2f}   {shown}")


def sample(folder: Path, rule: str, most: int = 40) -> None:
    """Finds of a rule, chosen at random, each on a line."""
    every = [(kind, text, find) for kind, text, find in found(folder) if find.rule.id == rule]
    Random(0).shuffle(every)
    for kind, text, find in every[:most]:
        before, after = text[max(0, find.start - 40) : find.start], text[find.end : find.end + 20]
        print(f"{kind:>12} {ascii(before)[1:-1]} >>{ascii(text[find.start : find.end])[1:-1]}<< {ascii(after)[1:-1]}")


if __name__ == "__main__":
    if sys.argv[1] == "finds":
        finds(Path(sys.argv[2]))
    elif sys.argv[1] == "sample":
        sample(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 40)
