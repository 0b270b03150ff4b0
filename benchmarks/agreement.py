"""Does `herd` say what llama.cpp says? Same file, same ids: greedy tokens and perplexity, the peer beside us.

    python benchmarks/agreement.py --peer PYTHON_WITH_LLAMA_CPP [--model smollm2] [--kv auto]

Ten prompts (data/prompts.json) of 32 greedy tokens each; a prompt agrees when all tokens do, else the peer's logit gap
at the first difference is printed. Perplexity over the first 20,000 tokens of data/manual.txt in windows of 1,024.
"""

import argparse
import json
import math

from harness import HERE, Peer, machine

import herd
from herd.checkpoint import store
from herd.text.chat import choose_format
from herd.text.messages import Message


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--peer", required=True, help="a python that imports llama_cpp")
    ap.add_argument("--model", default="smollm2")
    ap.add_argument("--kv", default="auto")
    ap.add_argument("--count", type=int, default=32)
    ap.add_argument("--window", type=int, default=1024)
    ap.add_argument("--tokens", type=int, default=20_000)
    a = ap.parse_args()
    print(machine())
    peer = Peer(a.peer)
    path = store.resolve(a.model)
    with herd.load(a.model, kv=a.kv) as m:
        peer.load(path=str(path), context=a.window)
        chat = choose_format(m.tokenizer, None, m.chat_format)
        same = 0
        for prompt in json.loads((HERE / "data/prompts.json").read_text())["prompts"]:
            ids = chat.encode([Message("user", prompt)])
            theirs = peer.greedy(ids=ids, count=a.count)
            ours = m.complete(ids, temperature=0.0, repetition_penalty=1.0, max_tokens=a.count).ids
            n = min(len(ours), len(theirs["ids"]))
            at = next((i for i in range(n) if ours[i] != theirs["ids"][i]), None)
            same += at is None
            gap = "" if at is None else f"  differs at {at}: the peer's logit gap there is {theirs['gaps'][at]:.4f}"
            print(f"{'same' if at is None else 'DIFF'} {n:3d} tokens  {prompt[:50]!r}{gap}")
        text = (HERE / "data/manual.txt").read_text()
        ids = m.encode(text)
        if ids != peer.tokenize(text=text)["ids"]:
            raise SystemExit("the tokenizers disagree on manual.txt")
        ids = ids[: a.tokens]
        theirs = peer.nll(ids=ids, window=a.window)
        ours = m.perplexity(ids, context=a.window)
        if ours.scored_tokens != theirs["count"]:
            raise SystemExit(f"scored tokens differ: ours {ours.scored_tokens}, peer {theirs['count']}")
        q = math.exp(theirs["nll"] / theirs["count"])
        print(f"greedy agreement {same} of 10; perplexity ours {ours.value:.4f}, peer {q:.4f}, ratio {ours.value / q:.5f}")
    peer.close()


if __name__ == "__main__":
    main()
