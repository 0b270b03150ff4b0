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
    with herd.load(a.model, kv=a.kv) as m:
        peer.load(path=str(m.path), context=max(a.window, 1024))
        same = 0
        for prompt in json.loads((HERE / "data/prompts.json").read_text())["prompts"]:
            ids = m.prompt_ids(prompt)
            theirs = peer.greedy(ids=ids, count=a.count)
            ours = list(m.greedy(ids, a.count))
            n = min(len(ours), len(theirs["ids"]))
            at = next((i for i in range(n) if ours[i] != theirs["ids"][i]), None)
            same += at is None
            gap = "" if at is None else f"  differs at {at}: peer's gap there {theirs['gaps'][at]:.4f}"
            print(f"{'same' if at is None else 'DIFF'} {n:3d} tokens  {prompt[:50]!r}{gap}")
        text = (HERE / "data/manual.txt").read_text()
        ids = m.encode(text)
        if ids != peer.tokenize(text=text)["ids"]:
            raise SystemExit("the tokenizers disagree on manual.txt")
        ids = ids[: a.tokens]
        theirs = peer.nll(ids=ids, window=a.window)
        ours = m.nll(ids, window=a.window)
        p, q = (math.exp(x["nll"] / x["count"]) for x in (ours, theirs))
        print(f"greedy agreement {same} of 10; perplexity ours {p:.4f}, peer {q:.4f}, ratio {p / q:.5f}")
    peer.close()


if __name__ == "__main__":
    main()
