"""Licences of weights and what they ask of users and distributors. Data, in our words; not legal advice.

Sources: Apache License 2.0; the MIT licence; Meta's community licences and acceptable use policies: Llama 3.1
(23 July 2024), 3.2 (25 September 2024) and 4 (5 April 2025).
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


def _llama(number: str, use_policy: str, *more: str) -> Licence:
    """A community licence of Meta: the versions differ in their names and addresses, and in `more`."""
    word = number.replace(".", "_")
    return Licence(
        f"llama{number}",
        f"Llama {number} Community License Agreement",
        f"https://www.llama.com/llama{word}/license/",
        (
            'passing on the weights, or a product or service with them: include the agreement and show "Built with '
            'Llama" prominently',
            "a model made or improved with these weights or their output, when passed on: its name begins with Llama",
            f'copies carry a NOTICE file: "Llama {number} is licensed under the Llama {number} Community License, '
            'Copyright © Meta Platforms, Inc. All Rights Reserved."',
            "more than 700 million monthly active users on the release date: ask Meta for a licence first",
            f"follow the acceptable use policy: {use_policy}",
            *more,
        ),
    )


_NO_IMAGES_IN_THE_EU = (
    "no rights for people living in, or companies seated in, the European Union (users of a product built by others "
    "are not concerned)"
)
LLAMA31 = _llama("3.1", "https://www.llama.com/llama3_1/use-policy/")
LLAMA32 = _llama(
    "3.2", "https://www.llama.com/llama3_2/use-policy/", f"models of the family that see images: {_NO_IMAGES_IN_THE_EU}"
)
LLAMA4 = _llama("4", "https://www.llama.com/llama4/use-policy/", f"image understanding: {_NO_IMAGES_IN_THE_EU}")

LICENCES = {licence.id: licence for licence in (APACHE, MIT, LLAMA31, LLAMA32, LLAMA4)}
_ALIASES = {
    "apache2": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "llama-4": "llama4",
    "llama 4": "llama4",
    "llama 3.1": "llama3.1",
    "llama 3.2": "llama3.2",
}


def find(name: str | None) -> Licence | None:
    """The licence called `name` in any usual spelling; None when it is not in the table."""
    if name is None:
        return None
    key = name.strip().lower()
    return LICENCES.get(_ALIASES.get(key, key))
