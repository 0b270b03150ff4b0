"""lm-evaluation-harness with transformers, under an interpreter that has both: a process that answers requests.

See harness.Worker. Seconds are of its model's calls alone: what it takes to read tasks and to average is left out.
"""

import json
import os
import resource
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
out = sys.stdout
sys.stdout = sys.stderr  # what the libraries print is no answer
sys.path.pop(0)  # this folder has a kernels.py, which transformers would take for a package of that name


class Side:
    def __init__(self):
        self.models = {}
        self.task = None

    def start(self, folder, name, threads):
        import torch
        from lm_eval.tasks import TaskManager

        torch.set_num_threads(threads)
        self.name = name
        self.manager = TaskManager(include_path=folder, include_defaults=False)
        return {}

    def score(self, model, file, dtype, batch, items):
        """Scores of these items, by numbers."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        if dtype not in self.models:
            self.models.clear()
            self.models[dtype] = HFLM(pretrained=model, gguf_file=file, device="cpu", dtype=dtype)
        lm = self.models[dtype]
        lm.batch_size_per_gpu = batch
        if batch == "auto":
            lm.batch_sizes = {}
        spent = []
        called = HFLM.loglikelihood

        def timed(requests, **more):
            began, cpu = time.perf_counter(), _cpu()
            found = called(lm, requests, **more)
            spent.append((time.perf_counter() - began, _cpu() - cpu))
            return found

        lm.loglikelihood = timed
        found = lm_eval.simple_evaluate(
            model=lm, tasks=[self.name], task_manager=self.manager, samples={self.name: items}, bootstrap_iters=0
        )
        samples = sorted(found["samples"][self.name], key=lambda one: one["doc_id"])
        return {
            "seconds": sum(s for s, _ in spent),
            "cpu_s": sum(c for _, c in spent),
            "items": [one["doc"]["number"] for one in samples],
            "right": [one["acc"] for one in samples],
            "logprobs": [[float(pair[0]) for pair in one["filtered_resps"]] for one in samples],
        }


def _cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


side = Side()
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(getattr(side, asked.pop("do"))(**asked)), file=out, flush=True)
