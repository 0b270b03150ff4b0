"""The page's files: what is served, how, and that what is not ours is what its makers published."""

import gzip
import hashlib
import http.client
import re
from importlib import resources
from pathlib import Path

import pytest
from serving import client_of, fake_service, running

from herd.server import page

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FIRST_LOAD_BYTES = 100_000
VENDORED = {  # as `npm pack temml@0.13.5` and `npm pack axe-core@4.14.1` hold them
    resources.files("herd.server") / "page/vendor/temml.mjs": (
        "49753197751c1ff7fa2c76c3b8503b6cee03774c7c92ccd71c3c4b7fa5b31fe1"
    ),
    Path(__file__).parent / "page/axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
}


def test_browsers_get_the_page_and_others_the_word_that_ollama_runs(tmp_path):
    with client_of(fake_service(tmp_path)) as client:
        shown = client.get("/", headers=BROWSER)
        assert shown.status_code == 200
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>Herd</title>" in shown.text
        assert shown.headers["content-security-policy"] == page.POLICY
        assert "accept" in shown.headers["vary"].lower().split(", ")
        told = client.get("/")
        assert (told.text, told.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
        assert client.head("/").status_code == 200


def test_the_page_can_be_left_out(tmp_path):
    with client_of(fake_service(tmp_path), page=False) as client:
        assert client.get("/", headers=BROWSER).text == "Ollama is running"
        assert client.get("/page/app.js").status_code == 404


def test_a_file_is_sent_once_and_compressed(tmp_path):
    with client_of(fake_service(tmp_path)) as client:
        plain = client.get("/page/app.js", headers={"accept-encoding": "identity"})
        packed = client.get("/page/app.js", headers={"accept-encoding": "br, gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert packed.headers["cache-control"] == "no-cache"
        assert packed.headers["content-type"] == "text/javascript; charset=utf-8"
        again = client.get("/page/app.js", headers={"if-none-match": packed.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get("/page/app.js", headers={"if-none-match": 'W/"another"'}).status_code == 200


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("xgzip", False),
    ],
)
def test_gzip_is_sent_to_those_who_take_it(header, accepted):
    assert page.accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    "name",
    [
        "", "..", "../page.py", "..%2fpage.py", "%2e%2e/page.py", "vendor", "vendor/", "vendor/../app.js", "/app.js",
        "//etc/fstab", "app.js%00", "app.js/a", "APP.JS", "vendor/../../page.py", "..\\page.py", "index.html/../app.js",
    ],
)  # fmt: skip
def test_only_the_page_has_files(tmp_path, name):
    with running(fake_service(tmp_path)) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))  # sends a path as it is
        connection.request("GET", f"/page/{name}")
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("content-type")) == (404, "application/json")
        connection.close()


def test_whatever_a_file_names_is_a_file_of_the_page():
    files = page.assets()
    index = files[page.INDEX].body.decode()
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', index))
    for name, asset in files.items():
        if name.endswith(".js"):
            named |= set(re.findall(r'(?:from|import\() ?"\./([^"]+)"', asset.body.decode()))
    assert named >= {"app.js", "style.css", "vendor/temml.mjs"}
    assert named <= set(files)
    modules = {name for name in files if name.endswith(".js")}
    assert modules <= named, "a module that nobody loads"


def test_no_code_stands_in_the_document_and_nothing_comes_from_elsewhere():
    for name, asset in page.assets().items():
        if name.startswith("vendor/"):
            continue
        text = asset.body.decode()
        if name.endswith(".html"):
            assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:", text)
        assert not re.search(
            r"""(?:src|href)=["'](?:https?:)?//|@import|url\(|["']https?://(?!www\.w3\.org/)""", text
        ), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", text), name


def test_the_first_load_is_small():
    first = {name: asset for name, asset in page.assets().items() if not name.startswith("vendor/")}
    assert sum(len(asset.packed) for asset in first.values()) < FIRST_LOAD_BYTES
    assert all(gzip.decompress(asset.packed) == asset.body for asset in first.values())


def test_vendored_files_are_what_their_makers_published():
    for file, digest in VENDORED.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, file
    assert "MIT License" in page.assets()["vendor/temml.LICENSE.txt"].body.decode()
