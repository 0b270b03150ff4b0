"""Rows of benchmarks/peer.py that are no race of two: what a load takes and holds, a million positions."""

import os
import statistics
import time

from harness import Ours, Peer, machine
from quiet import Watch


def load(plan, w, path):
    """Seconds until a first token could be asked for, from the page cache, in a fresh process each; the most memory
    held once a prompt of 512 has touched every weight. Met: 2 s, and the file's bytes and a tenth."""
    size = os.path.getsize(path)
    ours, theirs, peaks = [], {False: [], True: []}, {"ours": 0, False: 0, True: 0}
    _once(path, plan)  # packs, when the file needs it, and brings the pages in
    with Watch() as watch:
        for _ in range(plan.count(w)):
            seconds, peak = _once(path, plan)
            ours.append(seconds)
            peaks["ours"] = max(peaks["ours"], peak)
            for repack in theirs:
                peer = Peer(plan.python)
                theirs[repack].append(peer.load(path=str(path), threads=plan.threads, repack=repack)["load_s"])
                peer.prefill(count=512)
                peaks[repack] = max(peaks[repack], peer.memory()["peak_bytes"])
                peer.close()
    own = statistics.median(ours)
    settings = [
        {
            "model": path.stem, "setting": "repacked" if repack else "as in the file", "ours": own,
            "peer": statistics.median(times), "ratio": statistics.median(times) / own, "peer_peak_bytes": peaks[repack],
        }
        for repack, times in theirs.items()
    ]  # fmt: skip
    best = min(settings, key=lambda x: x["peer"])
    return {
        "workload": w.name, "ours": own, "peer": best["peer"], "ratio": best["ratio"], "target": w.target, "unit": "s",
        "met": own <= 2.0 and peaks["ours"] <= 1.1 * size, "runs": len(ours),
        "probe": {"limit": w.probe, "median": plan.look(w)}, "others": 0.0, "model": path.stem,
        "setting": best["setting"], "settings": settings, "file_bytes": size, "ours_peak_bytes": peaks["ours"],
        "note": f"peak {peaks['ours'] / 1e9:.2f} GB, peer {best['peer_peak_bytes'] / 1e9:.2f} GB, file "
        f"{size / 1e9:.2f} GB; {watch.figures['seconds']:.0f} s",
        "machine": machine(), "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def _once(path, plan):
    worker = Ours(plan.place / "home")
    seconds = worker.load(path=str(path), threads=plan.threads, pack=plan.pack)["load_s"]
    worker.prefill(count=512)
    peak = worker.memory()["peak_bytes"]
    worker.close()
    return seconds, peak


def million(plan, w, path):
    """Decoding with 1,048,576 positions in an int4 cache, filled by the worker's benchmark-only `fill_random`. Ours is
    its speed, `peer` the speed that reading every byte of weights and cache once at the probe's rate would give."""
    worker = Ours(plan.place / "home")
    loaded = worker.load(path=str(path), threads=plan.threads, pack=plan.pack)
    worker.prefill(count=512)  # every expert's weights into the page cache: a token reads others than the one before
    worker.context(length=w.depth + 1024, kv="int4")
    filled = worker.fill_random(depth=w.depth)
    worker.decode(count=1, depth=w.depth)
    probes, speeds, others, seconds = [], [], 0.0, 0.0
    for _ in range(plan.count(w)):
        probes.append(plan.look(w))
        t = worker.decode(count=w.count, depth=w.depth)
        speeds.append(w.count / t["seconds"])
        others, seconds = others + t["others_s"], seconds + t["seconds"]
    worker.close()
    token_bytes = loaded["token_bytes"] + filled["read_bytes"]
    bounds = [p * 1e9 / token_bytes for p in probes]
    ours, bound = statistics.median(speeds), statistics.median(bounds)
    ratio = statistics.median(s / b for s, b in zip(speeds, bounds, strict=True))
    resident = filled["resident_bytes"]
    return {
        "workload": w.name, "ours": ours, "peer": bound, "ratio": ratio, "target": w.target, "unit": "tok/s",
        "met": ratio >= w.target and resident <= 1.3 * 2**30, "runs": len(speeds),
        "probe": {"limit": w.probe, "median": statistics.median(probes)},
        "others": others / seconds / os.cpu_count(), "model": path.stem, "setting": "bound by bytes, not a peer",
        "kv_bytes": filled["kv_bytes"], "resident_bytes": resident, "token_bytes": token_bytes,
        "note": f"KV resident {resident / 2**30:.2f} GiB", "machine": machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
