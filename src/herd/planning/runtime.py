"""What the programs themselves take beside a model, in bytes: constants, measured, times the size of a vocabulary.

    process      Python, numpy, Herd's code, threads: as soon as a model can be loaded
    vocabulary   a token's bytes, its place in the merging; more for an added token, which has names and flags
    trie         of the vocabulary, once grammars are used; `LLM.warm_up`, so also `herd serve`, makes it at once
    service      the web server, its pages, its connections

With `engine="child"` there are two processes, and both know the vocabulary; the front has the trie, and the child once
a grammar is asked for. A process that tries grammars or writes dialogs is a third and a fourth: SIDE each.
`benchmarks/plan.py memory` measures all of it again.
"""

MIB = 1 << 20
PROCESS = 30 * MIB
SERVICE = 15 * MIB
SIDE = 29 * MIB
"""A process for what a stranger wrote (`llm.side_processes`), which starts with the first such request."""
TOKEN = 375
ADDED_TOKEN = 480
"""More, for a token that is added; a model has a few, Llama 4 2,048."""
TOLD_TOKEN = 185
"""More, in a child, for a control token, of which it is told by name."""
TRIE_TOKEN = 420


def runtime_bytes(
    vocab_size: int, *, added: int = 0, engine: str = "thread", service: bool = False, grammars: bool = True
) -> int:
    """Bytes of the processes of a loaded model without weights, cache and work. engine: "thread", or "child", as `herd
    serve` has it; service: whether one is served; grammars: whether they have been made ready."""
    words = TOKEN * vocab_size + ADDED_TOKEN * added
    trie = TRIE_TOKEN * vocab_size if grammars else 0
    front = PROCESS + words + trie + (SERVICE if service else 0)
    return front if engine == "thread" else front + PROCESS + words + TOLD_TOKEN * added
