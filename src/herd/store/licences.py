"""Licences of weights and what they ask of users and distributors. Data, in our words; not legal advice.

Sources: Apache License 2.0; the MIT licence; Llama 4 Community License Agreement and Acceptable Use Policy
(5 April 2025).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence by its usual short name."""

    id: str
    title: str
    url: str
    duties: tuple[str, ...]


APACHE = Licence(
    "apache-2.0",
    "Apache License 2.0",
    "https://www.apache.org/licenses/LICENSE-2.0",
    (
        "passing it on: include the licence text and any NOTICE file",
        "passing on changed files: say that they were changed",
        "no right to the names or marks of the authors",
    ),
)

MIT = Licence(
    "mit",
    "MIT License",
    "https://opensource.org/license/mit",
    ("passing it on: keep the copyright line and the licence text",),
)

LLAMA4 = Licence(
    "llama4",
    "Llama 4 Community License Agreement",
    "https://www.llama.com/llama4/license/",
    (
        'passing on the weights, or a product or service with them: include the agreement and show "Built with Llama" '
        "prominently",
        "a model made or improved with these weights or their output, when passed on: its name begins with Llama",
        'copies carry a NOTICE file: "Llama 4 is licensed under the Llama 4 Community License, '
        'Copyright © Meta Platforms, Inc. All Rights Reserved."',
        "more than 700 million monthly active users on the release date: ask Meta for a licence first",
        "follow the acceptable use policy: https://www.llama.com/llama4/use-policy/",
        "image understanding: no rights for people living in, or companies seated in, the European Union "
        "(users of a product built by others are not concerned)",
    ),
)

LICENCES = {licence.id: licence for licence in (APACHE, MIT, LLAMA4)}
_ALIASES = {"apache2": "apache-2.0", "apache 2.0": "apache-2.0", "llama-4": "llama4", "llama 4": "llama4"}


def find(name: str | None) -> Licence | None:
    """The licence called `name` in any usual spelling; None when it is not in the table."""
    if name is None:
        return None
    key = name.strip().lower()
    return LICENCES.get(_ALIASES.get(key, key))
