"""Evaluations: how well a model does on tasks, and whether another one does better.

    tasks        tasks as data, with limits       checkers     whether a reply is right, by name
    templates    prompts out of items             running      items asked of a model, many at once
    results      what came of them, in a folder   comparing    two runs, item by item
    statistics   intervals and tests              identity     what tells a model's files from others
    programs     checkers of a person's own       judging      where replies are judged
    children     processes that can be killed     sandbox      where code that a model wrote may run
    refusing     whether an answer refuses        needles      items about what stands in long texts
    bfcl         calls of tools, out of bfcl-eval reasoning    items that reasoning-gym makes
    elsewhere    runs over backends               page         results as HTML, with `pictures`

Over `ChatModel.ascore` and `achat` alone. What it is not: a place where code of a task runs unasked.
"""

from herd.evals.comparing import Compared as Compared
from herd.evals.comparing import compare as compare
from herd.evals.results import Results as Results
from herd.evals.results import Summary as Summary
from herd.evals.results import read_all as read_all
from herd.evals.running import run as run
from herd.evals.tasks import Task as Task
from herd.evals.tasks import built_in as built_in
from herd.evals.tasks import find as find
