"""Three tabs on the same conversations: random days of writing, removing, importing, reloading and closing, against a
model of what must be there. HERD_PAGE_ACTIONS says how many actions (300), HERD_PAGE_SEED which day."""

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serving import fake_service, running

from helpers import PATIENCE_S, until

pytestmark = pytest.mark.slow
ACTIONS = int(os.environ.get("HERD_PAGE_ACTIONS", "300"))
SEED = int(os.environ.get("HERD_PAGE_SEED", "1"))
TABS = 3
SETTLED_EVERY = 12
LATE = 8  # comparisons in which a message may still be on its way; then it is waited for
NAME = re.compile(r"^(Q\d+|A[0-9a-z]+)\b")
WAIT_FOR_ANSWER = "count => sim.until(() => sim.asked > count || document.querySelector('#prompt').value)"
WAIT_UNTIL = "([moment, count]) => sim.until(() => sim.asked > count || Date.now() > moment + 500)"
SCRIPT = Path(__file__).parent / "page/simulate.js"


@dataclass
class Talk:
    """A conversation that must be there. `live`: the names of its messages and, where known, their ids and texts."""

    live: dict[str, str | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)


@dataclass
class Pending:
    """A message that may not have reached the store yet. Excused: its tab was closed or what it hung on was removed."""

    tab: int
    talk: str | None = None
    grows: bool = False
    excused: bool = False
    looked_for: int = 0


class Day:
    """What is done, and what must be there afterwards."""

    def __init__(self, context: Any, address: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.context, self.address = context, address
        self.tabs = [self.open_tab() for _ in range(TABS)]
        self.talks: dict[str, Talk] = {}
        self.titles: dict[str, str] = {}
        self.parents: dict[str, str | None] = {}
        self.deleted: set[str] = set()
        self.pending: dict[str, Pending] = {}
        self.full: dict[str, str] = {}
        self.must_end: set[str] = set()
        self.ever: set[str] = set()
        self.backups: list[str] = []
        self.questions = 0
        self.log: list[str] = []

    def open_tab(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(self.address)
        page.wait_for_selector("#model option", state="attached")
        return page

    def do(self, tab: int, script: str, argument: Any = None) -> Any:
        return self.tabs[tab].evaluate(script, argument)

    # Actions. Each returns at once where it cannot be done.

    def say(self, tab: int, *, wait: bool, script: str = "text => sim.say(text)") -> None:
        if self.do(tab, "() => sim.busy()"):
            return
        self.questions += 1
        name = f"Q{self.questions}"
        before = self.do(tab, "() => sim.asked")
        self.pending[name] = Pending(tab)
        self.do(tab, script, f"{name} is asked")
        if not wait:
            return
        self.do(tab, WAIT_FOR_ANSWER, before)
        self.asked(tab, name, before)

    def asked(self, tab: int, question: str | None, before: int) -> None:
        """The model was asked, so the question was kept; the answer begins."""
        found = self.do(tab, "() => sim.told()")
        other = question is not None and not (found["question"] or "").startswith(f"{question} ")
        if found["asked"] == before or other:  # refused: an earlier answer was about to begin
            for pending in self.pending.values():
                pending.excused |= pending.tab == tab
            return
        if question is not None and found["talk"] is not None:
            del self.pending[question]
            self.talks.setdefault(found["talk"], Talk()).live[question] = None
        self.pending[found["name"]] = Pending(tab, found["talk"], grows=True)
        self.ever.add(found["name"])

    def edit(self, tab: int) -> None:
        if self.do(tab, "() => document.querySelector('.message.user [aria-label=\"Edit message\"]') !== null"):
            self.say(tab, wait=True, script="text => sim.edit(text)")

    def again(self, tab: int) -> None:
        if self.do(tab, "() => sim.busy()"):
            return
        before = self.do(tab, "() => sim.asked")
        if self.do(tab, "() => sim.again()"):
            self.do(tab, WAIT_FOR_ANSWER, before)
            self.asked(tab, None, before)

    def feed(self, tab: int) -> None:
        self.do(tab, "n => sim.answer?.open && sim.answer.feed(n)", self.rng.randrange(1, 20))

    def finish(self, tab: int) -> None:
        found = self.do(tab, "() => sim.answer?.open ? (sim.answer.finish(), sim.answer) : null")
        if found is None:
            return
        done = self.do(tab, "() => sim.until(() => !document.querySelector('.message.writing') || !sim.busy())")
        assert done, "an answer that ended is still being written"
        pending = self.pending.get(found["name"])
        if pending is not None:
            pending.grows = False
            self.full[found["name"]] = found["text"]

    def stop(self, tab: int) -> None:
        name = self.do(tab, "() => sim.answer?.open ? sim.answer.name : null")
        self.tabs[tab].keyboard.press("Escape")
        if name in self.pending and not self.do(tab, "() => sim.answer.open"):  # else it closed a form
            self.pending[name].grows = False
            self.pending[name].excused = True  # it may have had no text

    def choose(self, tab: int) -> None:
        label = self.rng.choice(["Earlier branch", "Later branch"])
        self.do(tab, "label => document.querySelector(`[aria-label='${label}']:not([disabled])`)?.click()", label)

    def fresh(self, tab: int) -> None:
        self.do(tab, "() => document.querySelector('#new').click()")

    def open(self, tab: int) -> None:
        titles = self.do(tab, "() => sim.titles()")
        if titles:
            self.do(tab, "title => sim.open(title)", self.rng.choice(titles))

    def disturb(self, tab: int) -> None:
        """Another tab is in the middle of something meanwhile."""
        if self.rng.random() < 0.5:
            self.say(self.rng.choice([i for i in range(TABS) if i != tab]), wait=False)
            for pending in self.pending.values():
                pending.excused = True

    def together(self, tab: int) -> None:
        """Two tabs write in one conversation at the same moment, and may be closed before either heard of the other."""
        other = (tab + 1) % TABS
        titles = self.do(tab, "() => sim.titles()")
        if not titles or any(self.do(one, "() => sim.busy()") for one in (tab, other)):
            return
        title = self.rng.choice(titles)
        moment = self.do(tab, "() => Date.now()") + 150
        said, befores = {}, {}
        for one in (tab, other):
            self.do(one, "title => sim.open(title)", title)
            self.questions += 1
            said[one] = f"Q{self.questions}"
            self.pending[said[one]] = Pending(one)
            befores[one] = self.do(one, "() => sim.asked")
            self.do(one, "([moment, text]) => sim.sayAt(moment, text)", [moment, f"{said[one]} is asked"])
        for one, name in said.items():
            self.do(one, WAIT_UNTIL, [moment, befores[one]])
            self.asked(one, name, befores[one])
        if self.rng.random() < 0.5:
            for one in said:
                self.kill(one)

    def delete(self, tab: int) -> None:
        self.settle()
        known = [title for title in self.do(tab, "() => sim.titles()") if title in self.titles]
        if not known:
            return
        title = self.rng.choice(known)
        talk = self.titles[title]
        self.do(tab, "() => sim.clearNotices()")
        self.disturb(tab)
        self.do(tab, "title => sim.delete(title)", title)
        gone = self.talks.pop(talk)
        self.deleted.add(talk)
        for name, pending in self.pending.items():
            pending.excused |= pending.talk in (None, talk)
            if pending.grows and pending.talk == talk:
                self.must_end.add(name)
        if self.rng.random() < 0.4 and self.do(tab, "() => sim.undo('Conversation deleted')"):
            self.do(tab, "title => sim.until(() => sim.entry(title))", title)
            self.talks[talk] = gone
            self.deleted.discard(talk)

    def remove(self, tab: int) -> None:
        self.settle()
        shown = self.do(tab, "() => sim.messages()")
        talk = self.talks.get(self.do(tab, "() => sim.shown()"))
        if not shown or talk is None:
            return
        self.do(tab, "() => sim.clearNotices()")
        top = self.rng.choice(shown)
        self.disturb(tab)
        if not self.do(tab, "id => sim.remove(id)", top):
            return
        for pending in self.pending.values():
            pending.excused = True
        below = {id for id in self.parents if self.is_below(id, top)}
        taken = {name: talk.live.pop(name) for name, id in list(talk.live.items()) if id in below}
        talk.dropped |= below
        if self.rng.random() < 0.4 and self.do(tab, "() => sim.until(() => sim.undo('Message removed'))"):
            talk.live.update(dict.fromkeys(taken))  # with new ids

    def is_below(self, id: str | None, top: str) -> bool:
        while id is not None and id != top:
            id = self.parents.get(id)
        return id == top

    def back_up(self, tab: int) -> None:
        self.backups.append(self.do(tab, "() => sim.exported()"))
        self.backups = self.backups[-6:]

    def take_in(self, tab: int) -> None:
        if not self.backups:
            return
        text = self.rng.choice(self.backups)
        self.do(tab, "() => sim.clearNotices()")
        assert self.do(tab, "text => sim.importText(text)", text), "an export was not imported"
        for given in json.loads(text)["conversations"]:
            talk = self.talks.setdefault(given["id"], Talk())
            self.deleted.discard(given["id"])
            talk.dropped |= {mark["id"] for mark in given["dropped"]}
            talk.live = {name: id for name, id in talk.live.items() if id not in talk.dropped}
            for message in given["messages"]:
                name = NAME.match(message["text"])
                if name and message["id"] not in talk.dropped:
                    talk.live[name[1]] = message["id"]

    def reload(self, tab: int) -> None:
        self.tabs[tab].reload()
        self.tabs[tab].wait_for_selector("#model option", state="attached")
        self.forget(tab)

    def kill(self, tab: int) -> None:
        self.tabs[tab].close()
        self.tabs[tab] = self.open_tab()
        self.forget(tab)

    def forget(self, tab: int) -> None:
        for pending in self.pending.values():
            if pending.tab == tab:
                pending.grows, pending.excused = False, True

    # What must be there

    def settle(self) -> None:
        """Let all tabs end what they began, then compare what is stored with what must be."""
        for _ in range(2):
            for tab in range(TABS):
                self.do(tab, "async () => { await new Promise(done => setTimeout(done, 15)); await sim.stored() }")
        self.compare(self.do(0, "() => sim.stored()"))
        for tab in range(TABS):
            until("an answer goes on unseen: its conversation was deleted", lambda tab=tab: self.may_go_on(tab))

    def may_go_on(self, tab: int) -> bool:
        return self.do(tab, "() => sim.answer?.open ? sim.answer.name : null") not in self.must_end

    def compare(self, stored: list[dict[str, Any]]) -> None:
        self.parents = {}
        self.titles = {}
        seen: set[str] = set()
        for conversation in stored:
            assert conversation["id"] not in self.deleted, f"{conversation['title']} came back"
            talk = self.talks.setdefault(conversation["id"], Talk())
            self.titles[conversation["title"]] = conversation["id"]
            self.compare_tree(conversation["messages"])
            seen |= set(self.compare_messages(talk, conversation["messages"]))
        for id, talk in self.talks.items():
            if not talk.live.keys() <= seen:
                until(
                    f"lost of {id}: {talk.live.keys() - seen}", lambda talk=talk: talk.live.keys() <= set(self.texts())
                )
        for name, pending in list(self.pending.items()):
            if pending.grows:
                continue
            pending.looked_for += 1
            if name in seen or (pending.excused and pending.looked_for > LATE):
                del self.pending[name]
            if name not in seen and not pending.excused and pending.looked_for > LATE:
                until(f"{name} was lost on its way", lambda name=name: name in self.texts())

    def texts(self) -> dict[str, str]:
        """What is stored now, by name."""
        texts = [message["text"] for talk in self.do(0, "() => sim.stored()") for message in talk["messages"]]
        return {found[1]: text for text, found in zip(texts, map(NAME.match, texts), strict=True) if found}

    def compare_messages(self, talk: Talk, messages: list[dict[str, Any]]) -> Iterator[str]:
        names = set()
        for message in messages:
            assert message["id"] not in talk.dropped, f"{message['text']} came back"
            found = NAME.match(message["text"])
            if not found:
                assert message["text"] == ""
                continue
            name = found[1]
            assert name not in names, f"{name} is there twice"
            names.add(name)
            begun = name[0] == "A" and name not in self.ever  # by a question that was not waited for
            assert name in talk.live or name in self.pending or begun, f"{name} came from nowhere"
            self.ever.add(name)
            assert talk.live.get(name) in (None, message["id"]), f"{name} is another message"
            if name in self.full and message["state"] != "stopped" and message["text"] != self.full[name]:
                until(f"{name} is not whole", lambda name=name: self.texts().get(name) == self.full[name])
            assert message["text"].startswith(talk.texts.get(name, "")), f"{name} is shorter than it was"
            talk.live[name] = message["id"]
            talk.texts[name] = message["text"]
            yield name

    def compare_tree(self, messages: list[dict[str, Any]]) -> None:
        parents = {message["id"]: message["parent"] for message in messages}
        assert len(parents) == len(messages)
        for id in parents:
            steps = 0
            while id is not None:
                assert id in parents, "an orphan"
                id, steps = parents[id], steps + 1
                assert steps <= len(parents), "a ring"
        self.parents |= parents

    def run(self, actions: int) -> None:
        weights = {
            self.feed: 16, self.finish: 22, self.stop: 4, self.edit: 6, self.again: 6, self.choose: 5, self.fresh: 5,
            self.open: 12, self.delete: 3, self.remove: 4, self.back_up: 2, self.take_in: 3, self.reload: 2,
            self.kill: 2, self.together: 6,
        }  # fmt: skip
        acts = [*weights, lambda tab: self.say(tab, wait=True), lambda tab: self.say(tab, wait=False)]
        for number in range(actions):
            act = self.rng.choices(acts, [*weights.values(), 20, 8])[0]
            tab = self.rng.randrange(TABS)
            self.log.append(f"{number} {tab} {getattr(act, '__name__', 'say')}")
            act(tab)
            if number % SETTLED_EVERY == 0:
                self.settle()
        for tab in range(TABS):
            self.finish(tab)
        self.settle()


def test_nothing_is_lost_and_nothing_comes_back(browser, tmp_path):
    with running(fake_service(tmp_path)) as address:
        context = browser.new_context()
        context.add_init_script(path=SCRIPT)
        day = Day(context, address, SEED)
        try:
            day.run(ACTIONS)
        except AssertionError as error:
            told = [day.do(tab, "() => sim.told()") for tab in range(TABS)]
            raise AssertionError(f"{error}; tabs: {told}; after {day.log[-30:]}") from error
        finally:
            print(len(day.log), "actions,", day.questions, "questions,", len(day.talks), "conversations")
            context.close()
