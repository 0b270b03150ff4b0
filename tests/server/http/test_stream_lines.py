"""Lines of streams: one event, one line, whatever stands in its texts."""

import json

from herd.server.http.wire import encode, json_line, sse

BREAKS = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000 and len(f"a{chr(i)}b".splitlines()) > 1]
"""Every character at which some reader of lines ends one."""


def test_no_text_ends_the_line_of_a_stream() -> None:
    assert {"\n", "\r", "\x85", "\u2028", "\u2029"} <= {*BREAKS}
    text = "".join(f"a{char}\u0442\u2027\u202a\xc2\x84{char}b" for char in BREAKS)
    for value in ({"a": text}, {text: [text]}, [text, {"b": 1}]):
        written = encode(value)
        (line,) = json_line(written).decode().splitlines()
        assert json.loads(line) == value
        data, empty = sse(written).decode().splitlines()
        assert (json.loads(data.removeprefix("data: ")), empty) == (value, "")
        event, data, _ = sse(written, "message_start").decode().splitlines()
        assert (event, json.loads(data.removeprefix("data: "))) == ("event: message_start", value)
