"""No reply is long because a request was: errors quote the beginning of what they are about, and nothing comes back
that no model had to read."""

import json
from pathlib import Path

import pytest
from places import HOLE, bodies
from serving import client_of, fake_service

from herd.server.tables import TABLES

LONG = "/tmp/a " * 20_000
"""More than the model's context holds; with words that look like paths, which errors leave out."""
MOST_ERROR = 4096
MOST_REPLY = 64 << 10
IDS = "POST /tokenize"
"""Its reply is as long as what was asked, and is counted as such."""


@pytest.mark.parametrize("name", TABLES)
def test_a_long_text_in_any_place_makes_no_long_reply(name: str, tmp_path: Path) -> None:
    method, path = name.split(" ")
    service = fake_service(tmp_path)
    found = {}
    with client_of(service) as client:
        for place, body in bodies(TABLES[name]):
            data = json.dumps(body).replace(HOLE, LONG).encode()
            service.strict = place == HOLE  # a field that nobody knows
            for more in (b"", b'"stream": true, ') if b'"stream"' not in data else (b"",):
                reply = client.request(method, path, content=b"{" + more + data[1:])
                most = MOST_ERROR if reply.status_code >= 400 else MOST_REPLY
                if len(reply.content) > most and (name != IDS or reply.status_code >= 400):
                    found[place, more] = reply.status_code, len(reply.content), reply.text[:80]
                assert sum(map(len, reply.headers.values())) < MOST_ERROR, (place, reply.headers)
    assert not found, found
