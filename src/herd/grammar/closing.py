"""Schemas on their way to masks: where the members of an object are listed and nothing is said of others, none come.

    {"properties": {"a": A}}                          -> {"properties": {"a": A}, "additionalProperties": false}
    {"allOf": [{"$ref": B}, {"properties": {...}}]}   -> both lists together, and no others

A model that may add members makes some up. So masks keep to the members that are listed for one value: by its own
`properties` and `patternProperties`, by `required`, and by those of all that `allOf` and `$ref` add. Of alternatives
(`anyOf`), each is held to its own and to what stands beside them. An `additionalProperties` that is given holds as it
stands, and so do listed values (`enum`, `const`) and more `minProperties` than there are names. Every text that is left
is one that the schema allows: this is about what is written, no check of what somebody gave.

Options of a `oneOf` that may share values are left as they are: which of them a value is may be told by a member that
one of them does not list. What it is not: a compiler, or a reader of schemas (`herd.grammar.json_schema`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from herd.grammar.json_schema import SINGLE, TABLES, Checked, Node, Work, leads_to, nodes

Form = Literal["", "p", "c"]
"""The form of a definition, and the end of its name: as it is given; as a part of what is closed elsewhere, only the
values in it closed; closed."""
MEMBERS = {"properties", "patternProperties", "additionalProperties", "required", "minProperties", "enum", "const"}
"""Keywords that say which members there are."""

NOWHERE: Mapping[int, Any] = {}


def closed(checked: Checked) -> Checked:
    """A schema that allows those of its texts that have no members which it does not list. Raises UsageError where its
    references multiply the names beyond bounds."""
    return _Closer(checked).whole()


@dataclass
class _Members:
    """What schemas for one value say of its members, together."""

    names: dict[str, None] = field(default_factory=dict)
    needed: dict[str, None] = field(default_factory=dict)
    """Names that are required."""
    patterns: dict[str, None] = field(default_factory=dict)
    listed: bool = False
    """Whether `properties` stand, in every alternative that allows objects."""
    somewhere: bool = False
    """Whether they stand in any."""
    other: bool = False
    """Whether the value can be no object."""
    said: bool = False
    """Whether it is said which others there are."""
    free: bool = False
    """Whether there are others."""
    least: int = 0

    @classmethod
    def of(cls, node: Node) -> "_Members":
        """The members that a node names by what stands right in it."""
        values = node["enum"] if "enum" in node else [node["const"]] if "const" in node else ()
        values_say = any(isinstance(value, dict) for value in values)
        types = node.get("type", "object")  # a name, or a list of some
        return cls(
            dict.fromkeys(node.get("properties", ())),
            dict.fromkeys(node.get("required", ())),
            dict.fromkeys(node.get("patternProperties", ())),
            "properties" in node,
            "properties" in node,
            "object" not in types,
            "additionalProperties" in node or values_say or isinstance(node.get("propertyNames"), str),
            node.get("additionalProperties", False) is not False or values_say,
            node.get("minProperties", 0),
        )

    def add(self, other: "_Members", work: Work) -> None:
        """What another one says, too."""
        self.add_names(other, work)
        self.listed |= other.listed
        self.somewhere |= other.somewhere
        self.other |= other.other
        self.said |= other.said
        self.free |= other.free
        self.least = max(self.least, other.least)

    def add_names(self, other: "_Members", work: Work) -> None:
        """Names and patterns of another one alone."""
        work.add(1 + len(other.names) + len(other.needed) + len(other.patterns))
        self.names |= other.names
        self.needed |= other.needed
        self.patterns |= other.patterns

    def holds(self, other: "_Members") -> bool:
        """Whether another one, as an alternative, lists no members but these."""
        names = (*other.names, *other.needed)
        return (
            not other.free
            and other.somewhere <= self.listed
            and other.patterns.keys() <= self.patterns.keys()
            and all(name in self.names or name in self.needed for name in names)
        )

    @property
    def ends(self) -> bool:
        """Whether there are no others to be."""
        enough = self.least <= len(self.names.keys() | self.needed.keys()) or bool(self.patterns)
        return self.listed and not self.said and enough


_NOTHING = _Members()
_NEVER = _Members(other=True)


class _Closer:
    """One schema on its way: what is needed of it is made anew, each definition once for each form."""

    def __init__(self, checked: Checked) -> None:
        self._given = checked
        self._defs: Mapping[str, Any] = checked.schema.get("$defs", {})
        self._places = dict(checked.places)
        self._work = Work()
        self._known: dict[int, _Members] = {}
        """id of a node as given -> what is said in it, whichever of its alternatives is taken."""
        self._asked: list[tuple[str, Form]] = []
        self._names: set[str] = set()

    def whole(self) -> Checked:
        for name in self._given.order:
            self._all(self._defs[name])  # so that no chain of references is followed at once
        given = {k: v for k, v in self._given.schema.items() if k != "$defs"}
        root = self._value(given)
        self._places[id(root)] = None
        defs: dict[str, Any] = {}
        for name, form in self._asked:  # which grows meanwhile
            node = self._defs[name]
            defs[name + form] = self._value(node) if form == "c" else self._part(node) if form == "p" else node
            if form == "":
                self._keep([node])
        for node in [*nodes([root, *defs.values()])]:
            if "propertyNames" in node:
                self._hold_names(node, defs)
        if defs:
            root["$defs"] = defs
        return Checked(root, self._places, [])

    def _hold_names(self, node: Node, defs: dict[str, Any]) -> None:
        """Make members of the names that there may be: no others come."""
        names, own, rest = node.pop("propertyNames"), node.get("properties", {}), node.get("additionalProperties", True)
        if not isinstance(rest, bool):  # written once, however many names there are
            given, rest = rest, {"$ref": f"#/$defs/n{len(defs)}"}
            defs[leads_to(rest)] = given
            self._places[id(rest)] = self._places.get(id(given))
        if isinstance(names, str):
            node["patternProperties"] = {names: rest}
        else:
            allowed = {name: own.get(name, rest) for name in names}
            node["properties"] = allowed | {name: False for name in own if name not in allowed}
        node["additionalProperties"] = False

    def _ask(self, node: Node, form: Form) -> str:
        """A reference to a form of the definition that a node refers to."""
        name = leads_to(node)
        if form == "c" and not self._all(self._defs[name]).somewhere:
            form = "p"
        if name + form not in self._names:
            self._names.add(name + form)
            self._asked.append((name, form))
        return f"#/$defs/{name}{form}"

    # -- what is said ------------------------------------------------------------------------------------------------

    def _sure(self, node: Node, choices: list[list[Any]]) -> _Members:
        """What is said in a node itself. Its alternatives, of which any may be taken, go to `choices`."""
        found = _Members()
        found.add(_Members.of(node), self._work)
        for part in node.get("allOf", ()):
            if isinstance(part, dict):
                found.add(self._sure(part, choices), self._work)
        if "oneOf" in node:
            found.add(self._either(node["oneOf"]), self._work)
        if "$ref" in node:
            found.add(self._all(self._defs[leads_to(node)]), self._work)
        if "anyOf" in node:
            choices.append(node["anyOf"])
        return found

    def _all(self, node: Any) -> _Members:
        """What is said in a node and in all of its alternatives."""
        if not isinstance(node, dict):
            return _NOTHING if node else _NEVER
        if id(node) not in self._known:
            if node.keys() == {"$ref"}:
                return self._known.setdefault(id(node), self._all(self._defs[leads_to(node)]))
            choices: list[list[Any]] = []
            found = self._sure(node, choices)
            for options in choices:
                found.add(self._either(options), self._work)
            self._known[id(node)] = found
        return self._known[id(node)]

    def _either(self, options: Sequence[Any]) -> _Members:
        """What is said in some alternatives. That one of them has no others says nothing of the rest."""
        found = _Members()
        said = [self._all(option) for option in options]
        for one in said:
            found.add(one, self._work)
        found.said = found.free
        found.other = all(one.other for one in said)
        found.listed = found.listed and all(one.listed or one.other for one in said)
        return found

    # -- what is made ------------------------------------------------------------------------------------------------

    def _value(self, node: Any, beside: _Members = _NOTHING) -> Any:
        """A schema of one value, closed. beside: what is said of an alternative of the same value elsewhere."""
        if node is True and beside.ends:
            node = {}
        if not isinstance(node, dict):
            return node
        if beside == _NOTHING and _is_reference(node):
            return self._part(node, "c")
        choices: list[list[Any]] = []
        said = _Members()
        said.add(beside, self._work)
        said.add(self._sure(node, choices), self._work)
        if said.said:
            return self._part(node)
        either = [self._either(options) for options in choices]
        if all(said.holds(one) for one in either):
            return self._closed(self._part(node), said) if said.ends else self._part(node)
        return self._part(node, choices=self._around(said, choices, either))

    def _around(self, said: _Members, choices: Sequence[list[Any]], either: Sequence[_Members]) -> dict[int, _Members]:
        """id of alternatives -> what is said beside each of them: in the node, and in its other alternatives. Those
        stay as they are beside others that any member may come to."""
        found = {}
        for i, options in enumerate(choices):
            others = [one for j, one in enumerate(either) if j != i]
            if not any(one.free for one in others):
                found[id(options)] = around = _Members()
                around.add(said, self._work)
                for one in others:
                    around.add_names(one, self._work)
        return found

    def _closed(self, new: Node, said: _Members) -> Node:
        """A node that was just made, closed over all names."""
        for keyword, names in (("properties", (*said.names, *said.needed)), ("patternProperties", (*said.patterns,))):
            own = new.get(keyword, {})
            self._work.add(len(names))
            if names or own:
                new[keyword] = {**own, **{name: True for name in names if name not in own}}
        new["additionalProperties"] = False
        return new

    def _part(self, node: Any, form: Form = "p", choices: Mapping[int, _Members] = NOWHERE) -> Any:
        """A schema whose values are closed, and no more of it. form: of what it refers to. choices: see `_around`."""
        if not isinstance(node, dict):
            return node
        new: Node = {}
        self._places[id(new)] = self._places.get(id(node))
        for keyword, value in node.items():
            if keyword == "$ref":
                new[keyword] = self._ask(node, form)
            elif keyword == "allOf":
                new[keyword] = [self._part(one, form, choices) for one in value]
            elif keyword == "anyOf":
                beside = choices.get(id(value))
                new[keyword] = [self._part(one) if beside is None else self._value(one, beside) for one in value]
            elif keyword == "prefixItems":
                new[keyword] = [self._value(one) for one in value]
            elif keyword in TABLES:
                new[keyword] = {name: self._value(one) for name, one in value.items()}
            elif keyword in SINGLE:
                new[keyword] = self._value(value)
            else:
                new[keyword] = value
            if keyword == "oneOf":
                self._keep(value)
        return new

    def _keep(self, schemas: Sequence[Any]) -> None:
        """Schemas that stay as they are given, and so does what they refer to."""
        for node in nodes(schemas):
            if "$ref" in node:
                self._ask(node, "")


def _is_reference(node: Node) -> bool:
    """Whether what a node says of members is what a definition says."""
    if "anyOf" in node or "oneOf" in node or not MEMBERS.isdisjoint(node):
        return False
    inner = node.get("allOf", ())
    return not inner if "$ref" in node else len(inner) == 1 and isinstance(inner[0], dict) and _is_reference(inner[0])
