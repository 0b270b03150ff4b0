"""`scripts/bench engines`: real engines behind Herd, by hand: recorded, held against asking them directly, timed.

    record ENGINE   writes tests/backends/recorded/ENGINE.json
    record-ids ENGINE   adds what it answers to token ids
    hold ENGINE     a service over it (--herd) in every dialect, beside asking it directly
    ids ENGINE      a backend by ids (--backend) beside asking it the same ids, and Herd's own engine (--own)
    speed ENGINE    what that service adds to a request and to a token, medians of pairs

ENGINE is vllm or llama-server, which runs already at --url; docs/backends.md says how it is started.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import engines_hold
import engines_ids
import engines_record
import engines_record_ids
import engines_speed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "record-ids", "hold", "ids", "speed"))
    parser.add_argument("engine", choices=("vllm", "llama-server"))
    parser.add_argument("--url", help="its address, /v1 included")
    parser.add_argument("--model", default="smollm2", help="what it calls the model")
    parser.add_argument("--key-env", default="HERD_ENGINE_KEY", help="the environment variable that holds its key")
    parser.add_argument("--calls-url", default="", help="record: an engine with the same name whose model calls tools")
    parser.add_argument("--only", default="", help="record: rows whose names hold this, the others stay")
    parser.add_argument("--herd", default="http://127.0.0.1:8484", help="the service that `herd serve --backend` runs")
    parser.add_argument("--backend", default="cellar", help="what the service calls it")
    parser.add_argument("--own", default="", help="ids: the same weights for Herd's own engine")
    parser.add_argument("--pid", type=int, help="the service's process, to count its processor time")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64)
    a = parser.parse_args()
    url = a.url or {"vllm": "http://127.0.0.1:8000/v1", "llama-server": "http://127.0.0.1:8080/v1"}[a.engine]
    key = os.environ.get(a.key_env, "")
    if a.what == "record":
        return 1 if engines_record.record(a.engine, url, a.model, key, a.only, a.calls_url) else 0
    if a.what == "record-ids":
        file = engines_record.FOLDER / f"{a.engine}-ids.json"
        found = engines_record_ids.rows(a.engine, url.removesuffix("/v1"), a.model, key)
        text = json.dumps({"engine": a.engine, "model": a.model, **found}, indent=1, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
        return 0
    if a.what == "hold":
        root = url.removesuffix("/v1")
        return 1 if engines_hold.hold(root, a.model, key, a.herd, a.backend) else 0
    if a.what == "ids":
        root = url.removesuffix("/v1")
        return 1 if engines_ids.compare(a.engine, root, a.model, key, a.backend, a.own) else 0
    engines_speed.compare(
        url, a.model, key, f"{a.herd}/v1", a.backend, pairs=a.pairs, tokens=a.tokens, pid=a.pid
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
