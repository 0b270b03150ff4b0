"""All rules, and the table of them that the documentation shows."""

from herd.safety.hidden import HIDDEN
from herd.safety.injection import INJECTION
from herd.safety.personal import PERSONAL
from herd.safety.rules import SEVERITIES, Kind, Rule, Severity
from herd.safety.secrets import SECRETS

RULES: tuple[Rule, ...] = (*HIDDEN, *PERSONAL, *SECRETS, *INJECTION)


def chosen(kinds: tuple[Kind, ...], least: Severity) -> tuple[Rule, ...]:
    """Rules of these kinds, at least that severe."""
    severe = SEVERITIES[SEVERITIES.index(least) :]
    return tuple(rule for rule in RULES if rule.kind in kinds and rule.severity in severe)


def markdown() -> str:
    """The rules as a Markdown table."""
    rows = (f"| `{r.id}` | {r.severity} | {r.finds} | {f'`{r.mark}`' if r.mark else 'left out'} |" for r in RULES)
    return "\n".join(("| rule | severity | finds | redacted to |", "| --- | --- | --- | --- |", *rows))
