"""What the page says is true, and what it was given it keeps: answers that were cut, messages that nobody can send, odd
keys, other tabs, backups."""

import json
import time
from typing import Any

import pytest
from page_visits import ANSWER
from test_page_in_browser import AXE, PIXEL, slowly, violations

from helpers import until
from herd.server.keys import Key, digest_of

pytestmark = pytest.mark.slow
SECRET = "a-secret-of-the-test"
LINE = f"{ANSWER} .ending"


def stream(*chunks: dict[str, Any], done: bool = True) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ("data: [DONE]\n\n" if done else "")


def says(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


ENDINGS = {
    "limit": (stream(says("Half a", "length")), {"max_tokens": "2"}, "most tokens"),
    "context": (stream(says("Half a", "length")), {}, "the context is full"),
    "full": (
        stream(says("Half a", "length"), {"choices": [], "usage": {"prompt_tokens": 4000, "completion_tokens": 9999}}),
        {"max_tokens": "20000"},
        "the context is full",
    ),
    "policy": (stream(says("Half a", "content_filter")), {}, "policy"),
    "no reason": (stream(says("Half a")), {}, "without saying why"),
    "nothing": (stream(says("", "stop")), {}, "The model said nothing."),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_an_answer_that_is_not_whole_says_why_and_what_to_do(visit, kind):
    body, parameters, line = ENDINGS[kind]
    seen = visit().ready()
    answers(seen, body)
    seen.page.locator("#parameters").click()
    for name, value in parameters.items():
        seen.page.fill(f"#set-{name}", value)
    seen.page.keyboard.press("Escape")
    seen.say("Hello")
    seen.expect(seen.page.locator(LINE)).to_contain_text(line)
    seen.expect(seen.page.locator("#speaker")).to_contain_text(line)
    seen.page.reload()
    seen.expect(seen.page.locator(LINE)).to_contain_text(line)
    assert violations_of(seen) == []


def test_an_answer_whose_engine_died_or_whose_connection_broke_says_so_and_keeps_its_text(visit):
    seen = visit().ready()
    answers(seen, stream(says("Half a"), {"error": {"message": "The engine ended (engine_died)."}}))
    seen.say("Hello")
    seen.expect(seen.page.locator(".error").last).to_contain_text("is not whole. The engine ended (engine_died).")
    answers(seen, stream(says("Half b"), done=False))
    seen.page.get_by_text("Try again").click()
    seen.expect(seen.page.locator(".error").last).to_contain_text("The connection ended before the answer did.")
    seen.expect(seen.answer()).to_have_text("Half b")
    seen.expect(seen.page.locator(".branches").last).to_have_text("2/2")


def test_a_whole_answer_says_nothing_more(visit):
    seen = visit().ready()
    seen.say("Hello")
    seen.expect(seen.answer()).to_have_text("Hello there.")
    seen.expect(seen.page.locator(".ending, .error")).to_have_count(0)


def answers(seen: Any, body: str) -> None:
    seen.page.unroute("**/v1/chat/completions")
    reply = {"body": body, "content_type": "text/event-stream"}
    seen.page.route("**/v1/chat/completions", lambda route: route.fulfill(**reply))


def violations_of(seen: Any) -> list[Any]:
    """Of a page whose policy bars the script that looks for them: the debugger runs it instead."""
    seen.page.evaluate(AXE.read_text() + "; 0")
    return violations(seen)


def blind(visit: Any) -> Any:
    """A visit to a service whose model takes no pictures."""
    seen = visit()
    models = seen.context.request.get(f"{seen.address}/v1/models").json()
    for model in models["data"]:
        model["architecture"]["input_modalities"] = ["text"] if model["id"] == "fake" else ["text", "image"]
    seen.page.route("**/v1/models", lambda route: route.fulfill(json=models))
    seen.page.reload()
    return seen.ready()


def chosen(name: str, content: bytes, kind: str = "text/plain") -> dict[str, Any]:
    """A file as a visitor chooses it."""
    return {"name": name, "mimeType": kind, "buffer": content}


def test_a_picture_that_the_model_cannot_take_is_said_before_it_is_sent(visit):
    seen = blind(visit)
    seen.page.select_option("#model", "fake")
    seen.page.locator("#files").set_input_files([chosen("dot.png", PIXEL, "image/png")])
    seen.page.fill("#prompt", "What is this?")
    seen.expect(seen.page.locator("#cannot")).to_have_text(
        "fake takes no pictures: take them out, or choose another model."
    )
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#notices")).to_contain_text("fake takes no pictures")
    seen.expect(seen.page.locator("#prompt")).to_have_value("What is this?")
    seen.page.select_option("#model", "other")
    seen.expect(seen.page.locator("#cannot")).to_have_text("")
    seen.page.select_option("#model", "fake")
    seen.page.get_by_label("Remove picture 1").click()
    seen.expect(seen.page.locator("#cannot")).to_have_text("")
    seen.say("Without it")
    assert [body["messages"][-1]["content"] for body in seen.sent()] == ["Without it"]


def test_pictures_of_earlier_messages_can_be_left_out_and_sent_again(visit):
    seen = blind(visit)
    answers(seen, stream(says("A dot.", "stop")))
    seen.page.select_option("#model", "other")
    seen.page.locator("#files").set_input_files([chosen("dot.png", PIXEL, "image/png")])
    seen.say("What is this?")
    seen.page.select_option("#model", "fake")
    seen.expect(seen.page.locator("#cannot")).to_contain_text("earlier messages have some")
    seen.page.get_by_text("Leave out the pictures").click()
    seen.expect(seen.page.locator("#cannot")).to_have_text("")
    seen.expect(seen.page.locator(".sending")).to_contain_text("Not sent to the model.")
    seen.say("And now?")
    assert [turn["content"] for turn in seen.sent()[-1]["messages"]] == ["What is this?", "A dot.", "And now?"]
    seen.page.get_by_text("Send the pictures again").click()
    seen.expect(seen.page.locator("#cannot")).to_contain_text("earlier messages have some")


def test_no_conversation_dies_of_a_message_that_the_service_refuses(visit):
    """The fake model sees no pictures, whatever the service says of it: every request with one fails."""
    seen = visit().ready()
    seen.page.locator("#files").set_input_files([chosen("dot.png", PIXEL, "image/png"), chosen("a.txt", b"text")])
    seen.say("What is this?")
    seen.expect(seen.page.locator(".error")).to_be_visible()
    seen.expect(seen.page.locator(".error button")).to_have_text(
        ["Try again", "Try without pictures", "Try without files", "Edit the question"]
    )
    seen.page.get_by_text("Edit the question").click()
    seen.expect(seen.page.locator(".edit textarea")).to_have_value("What is this?")
    seen.expect(seen.page.locator(".edit .chip")).to_have_count(2)
    seen.page.locator(".edit").get_by_label("Remove picture 1").click()
    seen.page.get_by_text("Cancel", exact=True).first.click()
    seen.expect(seen.page.locator(".attachments img")).to_have_count(1)
    seen.page.get_by_text("Try without pictures").click()
    seen.expect(seen.answer()).to_have_text("Hello there.")
    assert seen.sent()[-1]["messages"][0]["content"].endswith("What is this?")
    seen.say("Go on")
    seen.expect(seen.answer()).to_have_text("Hello there.")
    seen.page.locator(".message.user").first.hover()
    seen.page.get_by_label("Remove message and what follows").first.click()
    seen.expect(seen.page.locator(".message")).to_have_count(0)
    seen.page.get_by_text("Undo").click()
    seen.expect(seen.page.locator(".message")).to_have_count(4)
    seen.excused.append("400")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (chosen("broken.png", PIXEL[:20], "image/png"), "broken.png cannot be read as a picture"),
        (chosen("empty.txt", b""), "empty.txt is empty"),
        (chosen("long.txt", b"a" * ((1 << 20) + 1)), "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_sent_is_said_when_it_is_chosen(visit, file, line):
    seen = visit().ready()
    seen.page.locator("#files").set_input_files([file])
    seen.expect(seen.page.locator("#notices")).to_contain_text(line)
    seen.expect(seen.page.locator("#attached li")).to_have_count(0)


def test_a_key_that_no_header_can_carry_is_said_and_locks_nothing(visit):
    seen = visit(keys=(Key("me", digest_of(SECRET)),))
    seen.page.fill("#key", "schlüssel-1234567")
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#key-problem")).to_contain_text("this one has “ü”")
    seen.page.evaluate("() => sessionStorage.setItem('herd.key', 'schlüssel')")
    seen.page.reload()
    seen.expect(seen.page.locator("#key-dialog")).to_be_visible()
    seen.page.fill("#key", SECRET)
    seen.page.keyboard.press("Enter")
    seen.ready().say("Hello")
    seen.page.locator("#parameters").click()
    seen.page.get_by_text("API key …").click()
    seen.page.fill("#key", "another-secret-1234")
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#key-problem")).to_contain_text("does not know this key")
    seen.page.fill("#key", SECRET)
    seen.page.keyboard.press("Enter")
    seen.expect(seen.page.locator("#key-dialog")).not_to_be_visible()
    seen.excused.append("401")


def test_a_draft_outlives_a_reload(visit):
    seen = visit().ready()
    seen.page.locator("#prompt").press_sequentially("Not sent")
    seen.page.reload()
    seen.expect(seen.page.locator("#prompt")).to_have_value("Not sent")


def test_a_formula_is_copied_as_its_source(visit):
    seen = visit("So $x^2$ costs $5, *is* it?").ready()
    seen.say("Show")
    seen.page.wait_for_selector("math")
    copied = """() => {
        getSelection().selectAllChildren(document.querySelector(".message.assistant .body"));
        const event = new ClipboardEvent("copy", {clipboardData: new DataTransfer(), bubbles: true, cancelable: true});
        document.querySelector(".message.assistant .body").dispatchEvent(event);
        return event.clipboardData.getData("text/plain");
    }"""
    until("its source is copied", lambda: seen.page.evaluate(copied) == "So $x^2$ costs $5, is it?")


def test_tabs_follow_each_other_and_lose_nothing(visit):
    seen = visit().ready()
    seen.say("First")
    other = seen.tab()
    other.locator("#conversations .open").click()
    seen.expect(other.locator(".message")).to_have_count(2)
    seen.say("Second")
    seen.expect(other.locator(".message")).to_have_count(4)
    other.fill("#prompt", "Third")
    other.keyboard.press("Enter")
    seen.expect(seen.page.locator(".message")).to_have_count(6)
    seen.expect(seen.page.locator(ANSWER)).to_have_count(3)
    seen.page.reload()
    seen.expect(seen.page.locator(".message")).to_have_count(6)


def endless() -> Any:
    """A model whose answer no test outlives: a few words at once, then one byte after the other."""
    return slowly("abcdefgh " * 400, 0.01, lambda said: said < 40 or time.sleep(0.3))


def test_an_answer_ends_when_another_tab_deletes_its_conversation(visit):
    seen = visit(endless()).ready()
    seen.say("Hello", wait=False)
    seen.expect(seen.page.locator(".message.writing .body")).to_contain_text("abcdefgh abc")
    other = seen.tab()
    other.get_by_label("Delete Hello").click()
    seen.expect(seen.page.locator(".message")).to_have_count(0)
    seen.expect(seen.page.locator("#notices")).to_contain_text("This conversation was deleted.")
    seen.expect(seen.page.locator("#send")).to_have_attribute("aria-label", "Send")
    until("nothing of it is kept", lambda: seen.stored() == [])
    seen.page.reload()
    seen.expect(entries(seen)).to_have_text([NONE])


def test_an_answer_whose_tab_was_closed_is_shown_as_cut(visit):
    seen = visit(endless()).ready()
    other = seen.tab()
    other.fill("#prompt", "Hello")
    other.keyboard.press("Enter")
    seen.expect(other.locator(".message.writing .body")).to_contain_text("abcdefgh abcdefgh")
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.page.locator(".message.writing .body")).to_contain_text("abcdefgh")
    other.close(run_before_unload=False)
    seen.expect(seen.page.locator(LINE)).to_contain_text("the page was closed while this was written")


def backup(*messages: dict[str, Any], head: str, **more: Any) -> str:
    talk = {"id": "t", "title": "Talk", "updated": 1, "created": 1, "head": head, "messages": list(messages), **more}
    return json.dumps({"format": "herd-conversations", "version": 1, "conversations": [talk]})


def turn(id: str, parent: str | None, text: str = "", **more: Any) -> dict[str, Any]:
    return {"id": id, "parent": parent, "role": "user", "text": text or id, **more}


NONE = "Conversations stay in this browser."


def entries(seen: Any) -> Any:
    """Lines of the list of conversations; after a reload there is none until it was drawn from what is kept."""
    return seen.page.locator("#conversations .open, #conversations .none")


def take_in(seen: Any, text: str) -> None:
    seen.page.locator("#import-file").set_input_files([chosen("a.json", text.encode(), "application/json")])


def test_a_backup_adds_what_is_missing_and_overwrites_nothing_newer(visit):
    seen = visit().ready()
    take_in(seen, backup(turn("a", None, "new", edited=9), turn("b", "a"), head="b"))
    seen.expect(seen.page.locator("#notices")).to_contain_text("One conversation imported.")
    take_in(seen, backup(turn("a", None, "old", edited=3), turn("c", "a"), head="c"))
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.page.locator(".branches")).to_have_text("1/2")
    seen.expect(seen.page.locator(".message .body").first).to_have_text("new")


def test_rings_and_orphans_of_a_file_are_mended_and_said(visit):
    seen = visit().ready()
    take_in(seen, backup(turn("a", "b"), turn("b", "a"), turn("c", "nowhere"), turn("d", "d"), head="gone"))
    seen.expect(seen.page.locator("#notices")).to_contain_text("3 of their messages")
    seen.page.locator("#conversations .open").click()
    seen.expect(seen.page.locator(".message").first).to_be_visible()
    seen.say("Go on")
    seen.expect(seen.answer()).to_have_text("Hello there.")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[", "no file of conversations"),
        (backup(turn("a", None), turn("a", None), head="a"), "two messages have the same id"),
        (backup(turn("a" * 101, None), head="a"), "100 are the most"),
        (backup(turn("a", None, images=["data:image/svg+xml;base64,AA"]), head="a"), "a picture that is no PNG"),
        (backup(turn("a", None, images=[7]), head="a"), "expected text"),
        (backup(turn("a", None, state="odd"), head="a"), "state: got odd"),
        (backup(turn("a", None), head="a", messages=[]), "imported"),
        (backup(*(turn(f"a{i}", None) for i in range(20_001)), head="a1"), "20001 messages; 20000 are the most"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_and_nothing_of_it_is_taken(visit, text, line):
    seen = visit().ready()
    take_in(seen, text)
    seen.expect(seen.page.locator("#notices")).to_contain_text(line)
    seen.page.reload()
    seen.expect(entries(seen)).to_have_text(["Talk" if line == "imported" else NONE])
