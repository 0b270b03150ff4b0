"""What a service of Herd's in front of an engine adds to a request and to a token, beside asking the engine itself.

Pairs, one after the other, each first in turn; the same request, read by the same plain client. Medians of differences.
"""

import http.client
import json
import statistics
import time
from urllib.parse import urlsplit


def compare(engine_url, engine_model, key, herd_url, herd_model, *, pairs, tokens, pid=None):
    """Print the medians."""
    sides = {"engine": (engine_url, engine_model, key), "herd": (herd_url, herd_model, "")}
    found = {name: [] for name in sides}
    for side in sides.values():
        _asked(*side, tokens)  # once before it counts
    used = 0.0
    for i in range(pairs):
        for name in sorted(sides, reverse=i % 2 == 1):
            before = _cpu(pid)
            found[name].append(_asked(*sides[name], tokens))
            used += _cpu(pid) - before if name == "herd" else 0.0
    texts = {run[3] for runs in found.values() for run in runs}
    print(f"{pairs} pairs, {found['herd'][0][2]} pieces each, texts {'the same' if len(texts) == 1 else 'DIFFERENT'}")
    for name, runs in found.items():
        first, rest = (
            statistics.median(r[0] for r in runs),
            statistics.median((r[1] - r[0]) / max(1, r[2] - 1) for r in runs),
        )
        print(f"{name:<8} first piece {first * 1e3:8.2f} ms   a further one {rest * 1e3:8.3f} ms")
    both = list(zip(found["herd"], found["engine"], strict=True))
    first = statistics.median(h[0] - e[0] for h, e in both)
    rest = statistics.median((h[1] - h[0] - e[1] + e[0]) / max(1, h[2] - 1) for h, e in both)
    print(f"herd adds {first * 1e3:8.2f} ms to a request, {rest * 1e3:8.3f} ms to a token")
    if pid:
        print(f"processor time of the service: {used / pairs * 1e3:.1f} ms a request of {found['herd'][0][2]} pieces")


def _asked(url, model, key, tokens):
    """Seconds to the first piece of text, in all, pieces, the text."""
    parts = urlsplit(url)
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me about the sea."}], "stream": True,
            "temperature": 0, "max_tokens": tokens}  # fmt: skip
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)
    begun, first, pieces, text = time.perf_counter(), 0.0, 0, []
    connection.request("POST", parts.path + "/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    while (line := answer.readline()) and line.strip() != b"data: [DONE]":
        if not line.startswith(b"data: "):
            continue
        choices = json.loads(line[6:])["choices"]
        if choices and choices[0]["delta"].get("content"):
            pieces += 1
            text.append(choices[0]["delta"]["content"])
            first = first or time.perf_counter() - begun
    whole = time.perf_counter() - begun
    connection.close()
    return first, whole, pieces, "".join(text)


def _cpu(pid):
    """Seconds that a process has computed."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        row = file.read().rpartition(")")[2].split()
    return (int(row[11]) + int(row[12])) / 100
