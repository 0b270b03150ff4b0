"""Checks of what goes into a model and what comes out: rules that need no download, a guard model, an audit log.

    policy = Layers(Settings("redact"))  # one a request
    for event in model.stream(messages, policy=policy):
        ...

What it is not: a judge of content. Rules find characters and shapes; Llama Guard 4 judges, and misses (docs/safety.md).
"""

from herd.safety.audit import Audit
from herd.safety.guard import CATEGORIES, Guard, GuardTurn, Judge, ModelJudge, Verdict
from herd.safety.moderation import Moderation, moderate
from herd.safety.policy import MODES, Layers, Settings
from herd.safety.rules import KINDS, SEVERITIES, Rule, RuleMatch, scan
from herd.safety.table import RULES

__all__ = [
    "CATEGORIES",
    "KINDS",
    "MODES",
    "RULES",
    "SEVERITIES",
    "Audit",
    "Guard",
    "GuardTurn",
    "Judge",
    "Layers",
    "ModelJudge",
    "Moderation",
    "Rule",
    "RuleMatch",
    "Settings",
    "Verdict",
    "moderate",
    "scan",
]
