"""The page in a browser: Debian's Chromium, headless, over a service whose model says what a test wants."""

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_visits import ANSWER, Visit
from serving import BYTES, END

from helpers import PATIENCE_S, until
from herd.server.keys import Key, digest_of
from herd.text.chat import Llama4

pytestmark = pytest.mark.slow
AXE = Path(__file__).parent / "page/axe.min.js"
SECRET = "a-secret-of-the-test"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
)


def slowly(text: str, seconds: float, before: Callable[[int], object] | None = None) -> Callable[[list[int]], int]:
    """A model that takes its time for each byte. before: is told of each byte's place, and may wait."""
    header = Llama4(BYTES)._open()
    said = [*text.encode(), END]

    def next_id(ids: list[int]) -> int:
        time.sleep(seconds)
        begins = (i for i in range(len(ids), -1, -1) if ids[i : i + len(header)] == header)
        place = len(ids) - next(begins) - len(header)
        if before is not None:
            before(place)
        return said[min(place, len(said) - 1)]

    return next_id


def test_an_answer_streams_and_says_how_fast_it_was(visit):
    goes_on, reads_on = threading.Event(), threading.Event()
    text = "One sentence. " * 8
    answer = slowly(text, 0.01, lambda said: said < 20 or goes_on.wait(PATIENCE_S))
    light = looked_at("light", 1280)
    seen = visit(answer, cost=lambda rows: 0.0 * reads_on.wait(PATIENCE_S), context=light).ready()
    seen.say("Hello", wait=False)
    seen.expect(seen.page.locator(".message.writing .wait")).to_contain_text(re.compile(r"^Reading 0 of \d+ tokens"))
    seen.expect(seen.page.get_by_role("progressbar", name="Reading")).to_have_attribute("value", "0")
    seen.expect(seen.page.locator("#speaker")).to_have_text("")  # it is not read out
    assert violations(seen) == []
    reads_on.set()
    seen.expect(seen.page.locator(".message.writing .body")).to_contain_text("One sentence.")
    seen.expect(seen.page.locator(".wait")).to_have_count(0)
    seen.expect(seen.page.locator("#send")).to_have_attribute("aria-label", "Stop")
    goes_on.set()
    seen.expect(seen.answer()).to_have_text(text.strip())
    seen.expect(seen.page.locator(f"{ANSWER} .stats")).to_have_text(
        re.compile(r"113 tokens · [\d.]+ tokens/s · first after [\d.]+ s")
    )
    seen.expect(seen.page.locator("#model-state")).to_have_text("loaded")
    seen.expect(seen.page.locator("#meter")).to_contain_text("of 4.1k tokens")
    seen.expect(seen.page.locator("#speaker")).to_contain_text("One sentence.")


def test_stop_keeps_the_text_and_frees_the_model(visit):
    stopped = threading.Event()
    seen = visit(slowly("abcdefgh " * 400, 0.03, lambda said: said < 40 or stopped.wait(PATIENCE_S))).ready()
    seen.say("Hello", wait=False)
    seen.expect(seen.page.locator(".message.writing .body")).to_contain_text("abcdefgh abc")
    seen.page.keyboard.press("Escape")
    seen.expect(seen.page.locator(f"{ANSWER} .stats")).to_have_text("stopped")
    stopped.set()
    seen.expect(seen.answer()).to_have_text(re.compile("^abcdefgh abc[a-h ]{0,28}$"))
    seen.say("Again", wait=False)
    seen.expect(seen.page.locator(".message.writing .body")).to_contain_text("abc")
    assert [turn["role"] for turn in seen.sent()[-1]["messages"]] == ["user", "assistant", "user"]
    seen.expect(seen.answer()).to_have_text(seen.sent()[-1]["messages"][1]["content"])
    seen.page.keyboard.press("Escape")


def test_an_answer_that_was_cut_goes_on_where_it_ended(visit):
    said = "One two three four five six seven eight nine ten."
    reads_on = threading.Event()
    reads_on.set()
    seen = visit(said, cost=lambda rows: 0.0 * reads_on.wait(PATIENCE_S)).ready()
    seen.page.locator("#parameters").click()
    seen.page.get_by_label("Most tokens").fill("12")
    seen.page.keyboard.press("Escape")
    seen.say("Count")
    seen.expect(seen.answer()).to_have_text(said[:12])
    reads_on.clear()
    seen.page.get_by_label("Go on").click()
    seen.expect(seen.page.locator(".message.writing .wait")).to_contain_text(re.compile(r"^Reading \d+ of \d+ tokens"))
    seen.expect(seen.page.locator(".message.writing .body")).to_have_text(said[:12])
    reads_on.set()
    seen.expect(seen.answer()).to_have_text(said[:24].strip())
    seen.page.get_by_label("Go on").click()
    seen.expect(seen.answer()).to_have_text(said[:36])
    sent = seen.sent()
    assert [body.get("continue_final_message") for body in sent] == [None, True, True]
    assert sent[2]["messages"] == [{"role": "user", "content": "Count"}, {"role": "assistant", "content": said[:24]}]
    seen.expect(seen.page.locator(ANSWER)).to_have_count(1)
    for end in (48, 49):
        seen.page.get_by_label("Go on").click()
        seen.expect(seen.answer()).to_have_text(said[:end])
    seen.expect(seen.page.get_by_label("Go on")).to_have_count(0)
    seen.say("And now?")
    assert [m["content"] for m in seen.sent()[-1]["messages"]] == ["Count", said, "And now?"]


def test_answer_again_and_edit_make_branches(visit):
    seen = visit().ready()
    seen.say("First question")
    seen.page.locator(ANSWER).hover()
    seen.page.get_by_label("Answer again").click()
    seen.expect(seen.page.locator(".branches")).to_have_text("2/2")
    seen.page.get_by_label("Earlier branch").click()
    seen.expect(seen.page.locator(".branches")).to_have_text("1/2")
    seen.page.locator(".message.user").hover()
    seen.page.get_by_label("Edit message").click()
    seen.page.locator(".edit textarea").fill("Second question")
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator(".message.user .body")).to_have_text("Second question")
    seen.expect(seen.page.locator(ANSWER)).to_have_count(1)
    assert [m["content"] for m in seen.sent()[-1]["messages"]] == ["Second question"]
    seen.page.locator(".message.user").hover()
    seen.page.locator(".message.user").get_by_label("Earlier branch").click()
    seen.expect(seen.page.locator(".message.user .body")).to_have_text("First question")


def test_a_conversation_outlives_the_page_and_is_found_again(visit):
    seen = visit("The answer is forty-two.").ready()
    seen.say("What is it?")
    seen.page.reload()
    seen.ready()
    seen.expect(seen.answer()).to_have_text("The answer is forty-two.")
    seen.page.keyboard.press("Control+Shift+O")
    seen.expect(seen.page.locator(".message")).to_have_count(0)
    seen.page.keyboard.press("Control+K")
    seen.page.keyboard.type("nothing like this")
    seen.expect(seen.page.locator("#conversations .none")).to_have_text("Nothing found.")
    seen.page.fill("#search", "forty-two")
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.answer()).to_have_text("The answer is forty-two.")


def test_conversations_are_exported_deleted_and_imported(visit, tmp_path):
    seen = visit().ready()
    seen.say("Remember me")
    with seen.page.expect_download() as download:
        seen.page.locator("#export").click()
    file = tmp_path / "export.json"
    download.value.save_as(file)
    kept = json.loads(file.read_text())
    assert [m["text"] for m in kept["conversations"][0]["messages"]] == ["Remember me", "Hello there."]
    seen.page.get_by_label("Delete Remember me").click()
    seen.expect(seen.page.locator("#conversations .open")).to_have_count(0)
    seen.page.locator("#import-file").set_input_files(file)
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.answer()).to_have_text("Hello there.")
    file.write_text('{"format": "herd-conversations", "conversations": [{"messages": [{"role": "system"}]}]}')
    seen.page.locator("#import-file").set_input_files(file)
    seen.expect(seen.page.locator("#notices")).to_contain_text("message 0: role: got system")


def test_a_key_is_asked_for_and_kept_in_the_tab(visit):
    seen = visit(keys=(Key("me", digest_of(SECRET)),))
    seen.expect(seen.page.locator("#key-dialog")).to_be_visible()
    seen.page.fill("#key", "a-wrong-secret-1234")
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#key-problem")).to_have_text("The service does not know this key.")
    seen.page.fill("#key", SECRET)
    seen.page.keyboard.press("Enter")
    seen.ready().say("Hello")
    seen.expect(seen.answer()).to_have_text("Hello there.")
    until("the key is not kept", lambda: SECRET in seen.page.evaluate("() => JSON.stringify(sessionStorage)"))
    until("the key is kept for ever", lambda: SECRET not in seen.page.evaluate("() => JSON.stringify(localStorage)"))
    seen.excused.append("401")  # Chromium reports each refusal


def test_pictures_and_text_files_are_sent(visit):
    seen = visit().ready()
    seen.page.locator("#files").set_input_files(
        [
            {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL},
            {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"```\ncode\n```"},
        ]
    )
    seen.expect(seen.page.locator("#attached li")).to_have_count(2)
    drop = """bytes => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], "second.png", {type: "image/png"}));
        window.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
    }"""
    seen.page.evaluate(drop, list(PIXEL))
    seen.expect(seen.page.locator("#attached li")).to_have_count(3)
    seen.page.get_by_label("Remove picture 2").click()
    seen.say("What is this?")
    parts = seen.sent()[-1]["messages"][0]["content"]
    url = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    assert parts == [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "File notes.md:\n````\n```\ncode\n```\n````\n\nWhat is this?"},
    ]
    seen.page.locator("#files").set_input_files(
        [{"name": "x.bin", "mimeType": "application/octet-stream", "buffer": b"\x00\xff"}]
    )
    seen.expect(seen.page.locator("#notices")).to_contain_text("x.bin is neither a picture nor text in UTF-8.")
    seen.excused.append("400")  # the fake model sees no pictures


def test_parameters_are_sent(visit):
    seen = visit().ready()
    seen.page.locator("#parameters").click()
    for name, value in {
        "system": "Be brief.",
        "temperature": "0.5",
        "top_p": "7",
        "max_tokens": "5",
        "seed": "3",
    }.items():
        seen.page.fill(f"#set-{name}", value)
    seen.page.keyboard.press("Escape")
    seen.say("Hello")
    body = seen.sent()[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 5, 3)
    assert "top_p" not in body, "7 is no probability"
    seen.expect(seen.answer()).to_have_text("Hello")


def test_an_error_stands_in_its_place_and_can_be_tried_again(visit):
    seen = visit().ready()
    seen.page.route("**/v1/chat/completions", lambda route: route.abort())
    seen.say("Hello")
    seen.expect(seen.page.locator(".error")).to_contain_text("The service cannot be reached.")
    seen.page.unroute("**/v1/chat/completions")
    seen.page.get_by_text("Try again").click()
    seen.expect(seen.answer()).to_have_text("Hello there.")
    seen.expect(seen.page.locator(".error")).to_have_count(0)
    seen.expect(seen.page.locator(".message")).to_have_count(2)
    seen.excused.append("ERR_FAILED")


MARKDOWN = r"""# Title

Some *italic*, **bold**, ***both***, ~~gone~~, `code <b>` and snake_case_name, 2 * 3 * 4.
A [link](https://example.org/a_(b) "title"), https://example.org/x. and <mailto:a@b.org>

1. one
   - inner
2. two

- [x] done

> quoted
> more

| a | b |
|:--|--:|
| 1 | x \| y |

```python
if a < b:
    print("```")
```

Inline $E = mc^2$ costs $5 and $6.

$$
\int_0^1 x\,dx = \frac12
$$
"""


SHOWN = {
    "h3": ["Title"],
    "em": ["italic", "both"],
    "strong": ["bold", "both"],
    "del": ["gone"],
    "p code": ["code <b>"],
    "ol > li ul li": ["inner"],
    "td": ["1", "x | y"],
}
LINKS = ["https://example.org/a_(b)", "https://example.org/x", "mailto:a@b.org"]
CODE = 'if a < b:\n    print("```")'


def test_markdown_code_and_math_are_shown(visit):
    seen = visit(MARKDOWN).ready()
    seen.say("Show")
    body = seen.answer()
    for selector, texts in SHOWN.items():
        seen.expect(body.locator(selector)).to_have_text(texts)
    seen.expect(body).to_contain_text("snake_case_name, 2 * 3 * 4.")
    seen.expect(body.locator("a")).to_have_count(len(LINKS))
    for i, address in enumerate(LINKS):
        seen.expect(body.locator("a").nth(i)).to_have_attribute("href", address)
        seen.expect(body.locator("a").nth(i)).to_have_attribute("rel", "noopener noreferrer")
    seen.expect(body.locator("ol > li")).to_have_count(2)
    seen.expect(body.locator(".task")).to_have_attribute("aria-label", "done")
    until("lines of a quotation", lambda: body.locator("blockquote").inner_text() == "quoted\nmore")
    until("lines of code", lambda: body.locator("pre code").inner_text() == CODE)
    seen.expect(body.locator("math")).to_have_count(2)
    seen.expect(body).to_contain_text("$5 and $6")
    assert any(r.url.endswith("/page/vendor/temml.mjs") for r in seen.requests)
    seen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    body.get_by_label("Copy code").click()
    until("code on the clipboard", lambda: seen.page.evaluate("() => navigator.clipboard.readText()") == CODE)


def test_math_is_not_loaded_for_those_who_need_none(visit):
    seen = visit().ready()
    seen.say("Hello")
    assert not [r.url for r in seen.requests if "vendor" in r.url]


def test_a_stream_is_shown_as_the_whole_text_is(visit):
    """Whatever the pieces, blocks that were frozen are what the whole text gives."""
    seen = visit().ready()
    same = """async text => {
        const {Markdown} = await import("/page/markdown.js");
        const whole = document.createElement("div"), grown = document.createElement("div");
        new Markdown(whole).show(text);
        const markdown = new Markdown(grown);
        for (let i = 1; i <= text.length; i++) markdown.show(text.slice(0, i));
        return [whole.innerHTML, grown.innerHTML];
    }"""
    whole, grown = seen.page.evaluate(same, MARKDOWN.replace("$", ""))
    assert "<h3>" in whole
    assert grown == whole


HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit=2">

[a](javascript:window.hit=3) [b](data:text/html,<script>window.hit=4</script>) <javascript:window.hit=5>

![p](https://evil.example/pixel.png) ![q](//evil.example/q.png) ![r](/page/icon.svg "x")
![s](data:image/svg+xml;base64,PHN2Zz4=)

[c](  java\tscript:window.hit=6) [d](https://user:pw@evil.example/) [e](/v1/models) [f](vbscript:x)

$\\href{javascript:window.hit=7}{x} \\includegraphics{https://evil.example/m.png}$ $\\href{javascript:alert(1)}{y}$

```html
<script>window.hit = 8</script>
```

| <svg onload="window.hit=9"> | b |
|---|---|
| <iframe src="https://evil.example/"></iframe> | <style>@import "https://evil.example/s.css"</style> |
"""


TYPESET = """async () => {
    await import("/page/vendor/temml.mjs");
    for (let i = 0; i < 2; i++) await new Promise(resolve => requestAnimationFrame(resolve));
}"""
"""Formulas stand there: whoever waited for the module before was told before."""


def test_hostile_output_is_text_and_nothing_else(visit):
    seen = visit(HOSTILE).ready()
    seen.say("Attack")
    body = seen.answer()
    seen.expect(body).to_contain_text("<script>window.hit = 1</script>")
    seen.expect(body).to_contain_text("picture not loaded: p")
    seen.page.evaluate(TYPESET)
    seen.expect(body.locator("script, img, iframe, svg:not(.icon), style, object, form")).to_have_count(0)
    seen.expect(body.locator("a:not([href^='https:'])")).to_have_count(0)
    seen.expect(body.locator("math a, math [href]")).to_have_count(0)
    until("no script has run", lambda: seen.page.evaluate("() => window.hit") is None)


def test_no_text_is_slow_to_read(visit):
    """20,000 opening marks that nothing closes: read in linear time, else it would take minutes."""
    seen = visit().ready()
    show = """async text => {
        const {Markdown} = await import("/page/markdown.js");
        const root = document.createElement("div");
        new Markdown(root).show(text);
        return root.textContent.length;
    }"""
    for mark in ("*", "_", "~~", "`", "[", "![", "$", "\\(", "> ", "- ", "(", "[a](", "<http://", "|"):
        assert seen.page.evaluate(show, f"a {mark}b " * 20_000) > 20_000, mark
        assert seen.page.evaluate(show, mark * 20_000) >= 0, mark


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(visit, theme, width):
    seen = visit(MARKDOWN, context=looked_at(theme, width)).ready()
    assert violations(seen) == []
    seen.say("Show")
    seen.page.wait_for_selector("math")
    assert violations(seen) == []
    seen.page.locator("#parameters").click()
    assert violations(seen) == []
    seen.page.keyboard.press("Escape")
    if width < 800:
        seen.page.locator("#menu").click()
        assert violations(seen) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_where_a_key_is_asked_for(visit, theme, width):
    seen = visit(keys=(Key("me", digest_of(SECRET)),), context=looked_at(theme, width))
    seen.expect(seen.page.locator("#key-dialog")).to_be_visible()
    assert violations(seen) == []
    seen.page.fill("#key", "a-wrong-secret-1234")
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#key-problem")).to_be_visible()
    assert violations(seen) == []
    seen.excused.append("401")


def looked_at(theme: str, width: int) -> dict[str, Any]:
    """A browser's context for axe."""
    viewport = {"width": width, "height": 844}
    return {"color_scheme": theme, "viewport": viewport, "reduced_motion": "reduce", "bypass_csp": True}


def violations(seen: Visit) -> list[Any]:
    """What axe finds on the page as it is."""
    if not seen.page.evaluate("() => 'axe' in window"):
        seen.page.add_script_tag(path=AXE)
    run = "() => axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html + n.failureSummary)]))"
    found: list[Any] = seen.page.evaluate(run)
    return found


def long_conversation(num_messages: int) -> str:
    """A file to import."""
    messages = [
        {
            "id": f"m{i}",
            "parent": f"m{i - 1}" if i else None,
            "role": "assistant" if i % 2 else "user",
            "text": MARKDOWN * 2 if i % 2 else f"Question {i}",
        }
        for i in range(num_messages)
    ]
    talk = {"id": "long", "title": "Long talk", "head": messages[-1]["id"], "messages": messages}
    return json.dumps({"format": "herd-conversations", "version": 1, "conversations": [talk]})


def test_two_hundred_messages_are_as_quick_as_twenty(visit):
    """While somebody types, and while an answer streams: the page's thread has no more to do. Where all of ten times as
    many are drawn there is more to lay out, by far less than ten times (2 to 5 times were seen)."""
    few, many = (with_conversation(visit, num_messages) for num_messages in (20, 200))
    assert busy_s(many, type_and_stream) < 3 * busy_s(few, type_and_stream), "with the last messages shown"
    for seen, number in ((few, 20), (many, 200)):
        until("the first message is reached", lambda seen=seen: "Question 0" in scrolled_up(seen))
        until("all messages are drawn", lambda seen=seen, number=number: drawn(seen) >= number)
    assert busy_s(many, type_on) < 8 * busy_s(few, type_on), "with all of them shown"


def with_conversation(visit: Callable[..., Visit], num_messages: int) -> Visit:
    """A page that shows a long conversation, and an answer of many pieces for whoever asks."""
    seen = visit().ready()
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "word **bold** `code` and more.\n\n"}}]})
    end = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})
    stream = f"data: {chunk}\n\n" * 400 + f"data: {end}\n\ndata: [DONE]\n\n"
    seen.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
    )
    file = {"name": "long.json", "mimeType": "application/json", "buffer": long_conversation(num_messages).encode()}
    seen.page.locator("#import-file").set_input_files([file])
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.page.locator(".message").last).to_be_visible()
    until("not all messages are drawn", lambda: 0 < drawn(seen) < 60)
    seen.page.wait_for_selector("math")
    return seen


def drawn(seen: Visit) -> int:
    """How many messages are in the document."""
    count: int = seen.page.locator(".message").count()
    return count


def scrolled_up(seen: Visit) -> str:
    """The first message that is in the document, with the list moved to its beginning."""
    seen.page.evaluate("() => { document.querySelector('#scroller').scrollTop = 0 }")
    text: str = seen.page.locator(".message").first.inner_text()
    return text


def type_on(seen: Visit) -> None:
    seen.page.locator("#prompt").press_sequentially("How does this go on? " * 2)


def type_and_stream(seen: Visit) -> None:
    question = f"How does this go on, and what is asked {len(seen.sent())}?"
    seen.page.locator("#prompt").press_sequentially(question)
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator(".message.user .body").last).to_have_text(question)
    seen.expect(seen.page.locator(".message.writing")).to_have_count(0)
    seen.expect(seen.page.locator(ANSWER).last).to_contain_text("word bold code and more.")
    until("not all messages are drawn", lambda: 0 < drawn(seen) < 60)


def busy_s(seen: Visit, act: Callable[[Visit], None]) -> float:
    """Processor time of the page's thread during an act: the least of three."""
    session = seen.context.new_cdp_session(seen.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent_s() -> float:
        values = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(values["TaskDuration"])

    took_s = []
    for _ in range(3):
        before_s = spent_s()
        act(seen)
        took_s.append(spent_s() - before_s)
    return min(took_s)


def test_the_theme_is_chosen_and_kept(visit):
    seen = visit(context={"color_scheme": "light"}).ready()
    light = colour(seen)
    seen.page.get_by_label("Light or dark").click()
    until("another colour", lambda: colour(seen) != light)
    dark = colour(seen)
    seen.page.reload()
    until("the colour is kept", lambda: colour(seen.ready()) == dark)


def colour(seen: Visit) -> str:
    """Of the ground."""
    found: str = seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return found
