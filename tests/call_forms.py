"""Answers with calls of tools in every form in which models write them, and what they hold."""

from typing import Any

WEATHER = {
    "name": "weather",
    "description": "of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "array"}, "more": {"type": "object"}},
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, CLOCK]
LONG = 'Oslo, \u00c5s and N\u00e6r\u00f8y \U0001f600 with "quotes", \\ and\n lines' * 2
ROME = ("weather", {"city": "Rome"})
TIME: tuple[str, dict[str, Any]] = ("clock", {})
FORMS: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "Python's": (
        "I look. [weather(city='Oslo', days=[1, -2.50, None], more={'a': True, b=(1,)}), clock()]",
        "I look. ",
        [("weather", {"city": "Oslo", "days": [1, -2.5, None], "more": {"a": True, "b": [1]}}), TIME],
    ),
    "Python's, by place": ('[weather("Rome", [1, 2])]', "", [("weather", {"city": "Rome", "days": [1, 2]})]),
    "Python's, long strings": ('[weather(city="""a "b" c""")]', "", [("weather", {"city": 'a "b" c'})]),
    "Meta's built-in": ('[weather.call(city="Rome")]', "", [ROME]),
    "JSON": (
        '{"type": "function", "name": "weather", "parameters": {"city": "Rome", "days": [1e2, {"x": []}]}}',
        "",
        [("weather", {"city": "Rome", "days": [100.0, {"x": []}]})],
    ),
    "JSON, closely written": ('{"name":"weather","arguments":{"city":"Rome"}};{"name":"clock"}', "", [ROME, TIME]),
    "JSON, escaped": (
        '{"name": "weather", "parameters": {"city": "\\u00c5s \\ud83d\\ude00 \\n\\/\\t"}}',
        "",
        [("weather", {"city": "\u00c5s \U0001f600 \n/\t"})],
    ),
    "JSON, its name last": ('{"parameters": {"city": "Rome"}, "name": "weather"}', "", [ROME]),
    "JSON in JSON": ('{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}', "", [ROME]),
    "JSON without arguments": ('{"name": "clock", "parameters": null}', "", [TIME]),
    "OpenAI's": (
        '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}',
        "",
        [ROME],
    ),
    "a list of JSON": (
        '[{"name": "weather", "parameters": {"city": "Rome"}}, {"name": "clock", "parameters": {}}]',
        "",
        [ROME, TIME],
    ),
    "a tag of a function": ('<function=weather>{"city": "Rome"}</function> ok', " ok", [ROME]),
    "Hermes'": ('<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n', "", [ROME]),
    "a fence": ('```json\n{"name": "weather", "parameters": {"city": "Rome"}}\n```', "", [ROME]),
    "a fence of Python": ('```\n[weather(city="Rome")]\n```', "", [ROME]),
    "without its end": ('[weather(city="Rome"), clock()', "", [ROME, TIME]),
    "names twice": ('{"name": "weather", "parameters": {"city": "Rome", "city": "Oslo"}}', "", [ROME]),
}
"""The answer, the text around its calls, and the calls."""
BROKEN: dict[str, tuple[str, str, tuple[str, str]]] = {
    "a text without end": ("Look: [weather(city='Ro", "Look: ", ("weather", '{"city": "Ro')),
    "JSON without end": (
        '{"name": "weather", "parameters": {"city": "Rome", "days": [1, 2',
        "",
        ("weather", '{"city": "Rome", "days": [1'),
    ),
    "no JSON": (
        '{"name": "weather", "parameters": {"city": "Rome", "days": NaN}}',
        ' "days": NaN}}',
        ("weather", '{"city": "Rome"'),
    ),
    "more than there are": (
        '[weather("Rome", [1], {}, 4)] so [clock()]',
        ", 4)] so [clock()]",
        ("weather", '{"city": "Rome", "days": [1], "more": {}'),
    ),
    "half a character": (
        '<function=weather>{"city": "a\\ud83d"}</function>',
        '\\ud83d"}</function>',
        ("weather", '{"city": "a'),
    ),
}
"""The answer, its text, and the one call in it that broke off."""
FORCED = '{"type": "function", "name": "weather", "parameters": {"city": "Rome \\"x\\"", "days": [1, 2]}}'
