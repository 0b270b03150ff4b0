"""/v1/files and /v1/batches: from a form to results, across restarts, keys, cancels and kinds of failure."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from batch_lines import CHAT, request
from serving import client_of, service_of

from fake_chat_model import DoesAll, OnlyChats
from helpers import until
from herd.errors import Unauthorised, UsageError
from herd.messages import Message
from herd.server.batches import worker
from herd.server.file_store import FileStore, StoredBatch
from herd.server.keys import Key, digest_of
from herd.server.limits import Limits
from herd.server.service import Service

SECRET, OTHER = "a-secret-of-some-length", "another-secret-of-a-key"


def echo(turns: list[Message]) -> str:
    return f"You said {turns[-1].text}"


def serving(folder: Path, model: Any = None, *, keys: tuple[Key, ...] = (), **limits: Any) -> Service:
    """A service that keeps files."""
    service = service_of(model or OnlyChats(echo), keys=keys)
    service.limits = Limits(**limits)
    service.files = FileStore(folder, service.limits)
    return service


@contextmanager
def asking(service: Service, secret: str = "") -> Iterator[httpx.Client]:
    with client_of(service) as client:
        if secret:
            client.headers["x-api-key"] = secret
        yield client


def upload(client: httpx.Client, *lines: dict[str, Any] | str, **fields: str) -> httpx.Response:
    data = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return client.post("/v1/files", data={"purpose": "batch", **fields}, files={"file": ("in.jsonl", data.encode())})


def begin(client: httpx.Client, *lines: Any, endpoint: str = CHAT, window: str = "24h", **more: Any) -> dict[str, Any]:
    file = upload(client, *lines).json()["id"]
    body = {"input_file_id": file, "endpoint": endpoint, "completion_window": window, **more}
    found: dict[str, Any] = client.post("/v1/batches", json=body).json()
    return found


def ended(client: httpx.Client, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch once it is over."""
    found: dict[str, Any] = {}

    def over() -> bool:
        found.update(client.get(f"/v1/batches/{batch['id']}").json())
        return found["status"] in ("completed", "failed", "expired", "cancelled")

    until(found, over)
    return found


def results(client: httpx.Client, file_id: str) -> list[dict[str, Any]]:
    reply = client.get(f"/v1/files/{file_id}/content")
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/octet-stream"
    return [json.loads(line) for line in reply.text.splitlines()]


def test_a_file_becomes_a_batch_and_a_batch_becomes_files(tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files")) as client:
        file = upload(client, request("a"))
        told = file.json()
        assert file.status_code == 200 and told["object"] == "file" and told["purpose"] == "batch"
        assert told["filename"] == "in.jsonl" and told["bytes"] == len(json.dumps(request("a"))) + 1
        made = begin(client, request("a", "one"), request("b", "two", model="gpt-4o"), metadata={"who": "me"})
        assert made["object"] == "batch" and made["status"] in ("validating", "in_progress")
        done = ended(client, made)
        assert done["status"] == "completed" and done["metadata"] == {"who": "me"} and done["endpoint"] == CHAT
        assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
        assert done["expires_at"] == done["created_at"] + 86_400 and done["usage"]["output_tokens"] == 3
        (row,) = results(client, done["output_file_id"])
        assert row["custom_id"] == "a" and row["response"]["status_code"] == 200 and row["error"] is None
        assert row["response"]["body"]["choices"][0]["message"]["content"] == "You said one"
        (row,) = results(client, done["error_file_id"])
        assert row["custom_id"] == "b" and row["response"]["status_code"] == 404
        listed = client.get("/v1/batches").json()
        assert [one["id"] for one in listed["data"]] == [made["id"]] and listed["has_more"] is False
        files = client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"]
        assert {one["id"] for one in files} == {done["output_file_id"], done["error_file_id"]}
        assert client.get("/v1/files", params={"limit": 1}).json()["has_more"] is True
        gone = client.delete(f"/v1/files/{told['id']}").json()
        assert gone == {"id": told["id"], "object": "file", "deleted": True}
        assert client.get(f"/v1/files/{told['id']}").status_code == 404
        assert client.get(f"/v1/files/{told['id']}/content").status_code == 404
    assert len(list((tmp_path / "files").iterdir())) == 7, "three files, their records, and the batch's"


def test_all_four_routes_may_be_asked(tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files", DoesAll())) as client:
        for url in ("/v1/completions", "/v1/embeddings", "/v1/responses"):
            done = ended(client, begin(client, request("a", url=url), endpoint=url))
            assert done["request_counts"]["completed"] == 1, (url, done)
            assert results(client, done["output_file_id"])[0]["response"]["body"]["object"]
        assert client.get(f"/v1/responses/{results(client, done['output_file_id'])[0]['response']['body']['id']}")


def test_a_file_with_wrong_lines_fails_whole_and_tells_them(tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files", batch_lines=4)) as client:
        lines = [request("a"), "{broken", request("a"), request("c", url="/v1/completions")]
        done = ended(client, begin(client, *lines))
        assert done["status"] == "failed" and done["failed_at"] and done["output_file_id"] is None
        told = {(one["line"], one["code"]) for one in done["errors"]["data"]}
        assert told == {(2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "mismatched_url")}
        assert ended(client, begin(client, ""))["errors"]["data"][0]["code"] == "empty_file"
        many = ended(client, begin(client, *(request(str(i)) for i in range(5))))
        assert many["errors"]["data"][0]["message"].endswith("lines: got more, expected at most 4")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"purpose": "fine-tune"}, "purpose: got 'fine-tune', expected batch"),
    ({"expires_after[seconds]": "5"}, "expires_after.seconds: got '5'"),
    ({"expires_after[anchor]": "now"}, "expires_after.anchor"),
    ({"more": "x"}, "more: expected purpose, file or expires_after"),
    ({"purpose": "x" * 2000}, "purpose: got"),
]


@pytest.mark.parametrize(("fields", "says"), WRONG)
def test_a_form_that_is_wrong_keeps_nothing(fields: dict[str, str], says: str, tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files")) as client:
        reply = upload(client, request("a"), **fields)
        assert reply.status_code == 400 and says in reply.json()["error"]["message"]
        assert client.get("/v1/files").json()["data"] == []
    assert list((tmp_path / "files").iterdir()) == []


def test_limits_of_files_hold(tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files", file_bytes=2000, key_files=2, key_file_bytes=3000)) as client:
        assert upload(client, "x" * 3000).status_code == 413
        assert upload(client, "x" * 100_000).status_code == 413
        assert upload(client, "x" * 1000).status_code == 200
        assert upload(client, "x" * 1999).status_code == 413
        assert upload(client, "x").status_code == 200
        reply = upload(client, "x")
        assert reply.status_code == 413 and "files of key local" in reply.json()["error"]["message"]
        assert client.post("/v1/files", content=b"{}").status_code == 400
        assert len(client.get("/v1/files").json()["data"]) == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"completion_window": "soon"}, "completion_window: got 'soon', expected 1h to 720h"),
        ({"input_file_id": "file-none"}, "input_file_id: got 'file-none'"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"metadata": {"a": "x" * 600}}, "metadata: expected at most 16 pairs"),
    ],
)
def test_a_batch_that_is_wrong_does_not_begin(body: dict[str, Any], says: str, tmp_path: Path) -> None:
    with asking(serving(tmp_path / "files")) as client:
        reply = begin(client, request("a"), **body) if "input_file_id" not in body else None
        if reply is None:
            wanted = {"endpoint": CHAT, "completion_window": "24h", **body}
            reply = client.post("/v1/batches", json=wanted).json()
        assert says.split(":")[0] in reply["error"]["message"]
        assert client.get("/v1/batches").json()["data"] == []


def test_a_key_sees_its_own_alone(tmp_path: Path) -> None:
    keys = (Key("k", digest_of(SECRET)), Key("o", digest_of(OTHER)))
    with asking(serving(tmp_path / "files", keys=keys), SECRET) as client:
        done = ended(client, begin(client, request("a")))
        client.headers["x-api-key"] = OTHER
        assert client.get("/v1/files").json()["data"] == client.get("/v1/batches").json()["data"] == []
        for path in (f"batches/{done['id']}", f"files/{done['input_file_id']}", f"files/{done['output_file_id']}"):
            assert client.get(f"/v1/{path}").status_code == 404
        assert client.get(f"/v1/files/{done['output_file_id']}/content").status_code == 404
        assert client.delete(f"/v1/files/{done['output_file_id']}").status_code == 404
        assert client.post(f"/v1/batches/{done['id']}/cancel").status_code == 404
        body = {"input_file_id": done["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        assert client.post("/v1/batches", json=body).status_code == 404


class Slow(OnlyChats):
    """Stops at some texts until it may go on."""

    def __init__(self, stop: str) -> None:
        super().__init__(self._say)
        self.stop, self.stopped = stop, 0

    def _say(self, turns: list[Message]) -> str:
        if self.stop and self.stop in turns[-1].text:
            self.stopped += 1
            from herd.errors import NetworkError

            raise NetworkError("near: not there")
        return echo(turns)


def test_a_batch_goes_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Slow("7")
    with asking(serving(tmp_path / "files", model)) as client:
        made = begin(client, *(request(str(i), f"{i}") for i in range(9)))
        until(model, lambda: client.get(f"/v1/batches/{made['id']}").json()["request_counts"]["completed"] >= 5)
        found = client.get(f"/v1/batches/{made['id']}").json()
        assert found["status"] == "in_progress" and found["request_counts"]["total"] == 9
        assert client.delete(f"/v1/files/{made['input_file_id']}").status_code == 400, "the batch reads it"
    other = OnlyChats(echo)
    with asking(serving(tmp_path / "files", other)) as client:
        done = ended(client, made)
        assert done["status"] == "completed" and done["request_counts"] == {"total": 9, "completed": 9, "failed": 0}
        rows = results(client, done["output_file_id"])
        assert sorted(row["custom_id"] for row in rows) == [str(i) for i in range(9)]
    assert 1 <= len(other.asked) <= 4, "what had a result is not asked again"


def test_cancelled_and_expired_batches_keep_what_is_answered(tmp_path: Path) -> None:
    model = Slow("7")
    service = serving(tmp_path / "files", model)
    with asking(service) as client:
        made = begin(client, *(request(str(i), f"{i}") for i in range(9)))
        until(model, lambda: client.get(f"/v1/batches/{made['id']}").json()["request_counts"]["completed"] >= 5)
        assert client.post(f"/v1/batches/{made['id']}/cancel").json()["status"] == "cancelling"
        done = ended(client, made)
        assert done["status"] == "cancelled" and done["cancelling_at"] <= done["cancelled_at"]
        assert len(results(client, done["output_file_id"])) == done["request_counts"]["completed"] >= 5
        assert client.post(f"/v1/batches/{made['id']}/cancel").status_code == 400
    model.stop = ""
    assert service.files is not None
    batch = service.files.batches[made["id"]]
    batch.status, batch.cancelled_at, batch.expires_at = "in_progress", None, int(time.time()) - 1
    batch.output_file_id = batch.ends_as = None
    files = serving(tmp_path / "again", model)
    assert files.files is not None
    file = service.files.files[batch.input_file_id]
    (tmp_path / "again" / file.id).write_bytes(service.files.path(file).read_bytes())
    files.files.keep_file(file, tmp_path / "none")
    model.stop = "7"
    files.files.keep_batch(batch, new=True)
    with asking(files) as client:
        done = ended(client, made)
        assert done["status"] == "expired" and done["expired_at"]
        lost = results(client, done["error_file_id"])
        assert {row["error"]["code"] for row in lost} == {"batch_expired"} and "7" in {row["custom_id"] for row in lost}
        assert done["request_counts"]["completed"] + done["request_counts"]["failed"] == 9


def test_a_batch_is_behind_live_requests_and_takes_none_of_their_places(tmp_path: Path) -> None:
    rights = frozenset({"chat", "leave"})
    owner = Key("k", digest_of(SECRET), priority=3, at_once=1, rights=rights, tokens_per_minute=1000)
    behind = worker.behind(owner, private=True)
    assert behind.priority == 3 - worker.BEHIND and behind.rights == {"chat"} and behind.tokens is owner.tokens
    behind.enter(64)
    assert owner.under_way == 0
    owner.enter(1)
    model = OnlyChats(echo)
    service = serving(tmp_path / "files", model)
    with asking(service) as client:
        ended(client, begin(client, *(request(str(i)) for i in range(4))))
        client.post("/v1/chat/completions", json=request("x")["body"])
        priorities = [options["priority"] for _, options in model.asked]
        assert priorities == [-worker.BEHIND] * 4 + [0]
        run = worker.Worker(service, service.files)  # type: ignore[arg-type]
        assert run._places() == service.limits.batch_at_once
        service.keyring._local.under_way += 1
        assert run._places() == service.limits.batch_beside
        service.keyring._local.under_way -= 1


def test_what_may_not_leave_does_not_whatever_its_key_may_later(tmp_path: Path) -> None:
    """Private sticks: to a file, the batch that reads it, and its results."""
    model = OnlyChats(echo)
    key = Key("k", digest_of(SECRET))
    service = serving(tmp_path / "files", model, keys=(key,))
    with asking(service, SECRET) as client:
        file = upload(client, request("a")).json()["id"]
        key.rights |= {"leave"}
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        done = ended(client, client.post("/v1/batches", json=body).json())
        assert "leave" not in model.asked[-1][1]
        assert service.files is not None and service.files.files[done["output_file_id"]].private
        ended(client, begin(client, request("a")))
        assert model.asked[-1][1]["leave"] is True


def test_a_policy_sees_lines_as_it_sees_live_requests(tmp_path: Path) -> None:
    model = OnlyChats(echo)
    service = service_of(model, mode="block")
    service.files = FileStore(tmp_path / "files", service.limits)
    with asking(service) as client:
        card = "My card is 4111 1111 1111 1111"
        live = client.post("/v1/chat/completions", json=request("x", card)["body"])
        done = ended(client, begin(client, request("a", card)))
        (row,) = results(client, done["error_file_id"] or done["output_file_id"])
        assert row["response"]["status_code"] == live.status_code
        told, wanted = row["response"]["body"], live.json()
        assert told.keys() == wanted.keys()
        assert ("error" in told and told["error"] == wanted["error"]) or told["choices"][0]["finish_reason"] == (
            wanted["choices"][0]["finish_reason"]
        )
        assert model.asked == []


def test_what_a_key_had_is_gone_with_it(tmp_path: Path) -> None:
    service = serving(tmp_path / "files", keys=(Key("k", digest_of(SECRET)),))
    with asking(service, SECRET) as client:
        ended(client, begin(client, request("a")))
        assert service.files is not None
        service.files.forget("k")
        assert client.get("/v1/files").json()["data"] == client.get("/v1/batches").json()["data"] == []
    assert list((tmp_path / "files").iterdir()) == []


def test_broken_records_and_cut_uploads_cost_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    with asking(serving(folder)) as client:
        kept = upload(client, request("a")).json()["id"]
    (folder / "file-broken.json").write_text("{")
    (folder / "file-broken").write_text("bytes of it stay")
    (folder / "file-0123.part").write_text("an upload that a kill cut")
    store = FileStore(folder, Limits())
    assert [*store.files] == [kept] and len(store.left_out) == 1
    assert (folder / "file-broken").exists() and not (folder / "file-0123.part").exists()
    with pytest.raises(Exception, match="another service has it"):
        FileStore(folder, Limits())
    store.close()


def test_without_a_folder_nothing_is_kept_and_that_is_told() -> None:
    with asking(service_of(OnlyChats())) as client:
        reply = client.get("/v1/files")
        assert reply.status_code == 501 and "herd serve --files FOLDER" in reply.json()["error"]["message"]


def test_a_batch_is_taken_to_its_end_whatever_its_first_line_names(tmp_path: Path) -> None:
    """A record that is too long to be read back is not written."""
    with asking(serving(tmp_path / "files")) as client:
        done = ended(client, begin(client, request("a", model="m" * 200_000)))
        assert done["status"] == "completed" and done["model"] == "m" * worker.MODEL


def test_a_batch_that_is_cancelled_before_it_began_waits_for_no_other(tmp_path: Path) -> None:
    model = Slow("7")
    with asking(serving(tmp_path / "files", model, batches_at_once=1)) as client:
        begin(client, request("a", "7"))
        until(model, lambda: model.stopped > 0)
        queued = begin(client, request("b"))
        client.post(f"/v1/batches/{queued['id']}/cancel")
        assert ended(client, queued)["status"] == "cancelled"
        assert client.delete(f"/v1/files/{queued['input_file_id']}").status_code == 200


def test_a_disk_that_takes_nothing_ends_no_other_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serving(tmp_path / "files")
    monkeypatch.setattr(worker, "AGAIN_S", 0.01)
    left = [RuntimeError("once")]

    def expire() -> None:
        raise left.pop() if left else OSError(30, "Read-only file system")

    monkeypatch.setattr(service.files, "expire", expire)
    with asking(service) as client:
        assert ended(client, begin(client, request("a")))["status"] == "completed"


def test_batches_that_are_over_make_room_for_other_keys(tmp_path: Path) -> None:
    keys = tuple(Key(name, digest_of(SECRET + name)) for name in "abc")
    model = Slow("7")
    with asking(serving(tmp_path / "files", model, keys=keys, batches=4, key_batches=2)) as client:
        made = []
        for name in "aabbc":
            client.headers["x-api-key"] = SECRET + name
            made.append(ended(client, begin(client, request("a"))))
        client.headers["x-api-key"] = SECRET + "a"
        assert [one["id"] for one in client.get("/v1/batches").json()["data"]] == [made[1]["id"]], "its oldest is gone"
        for _ in range(2):
            begin(client, request("a", "7"))
        assert "that are not over" in begin(client, request("a"))["error"]["message"]


def test_results_beyond_their_limit_end_a_batch_and_each_line_says_so(tmp_path: Path) -> None:
    model = Slow("7")
    model.answer = lambda turns: "y" * 200_000 if "7" not in turns[-1].text else model._say(turns)
    lines = [request("a"), *(request(str(i), "7") for i in range(600))]
    with asking(serving(tmp_path / "files", model, file_bytes=150_000)) as client:
        done = ended(client, begin(client, *lines))
        assert done["status"] == "completed" and done["request_counts"] == {"total": 601, "completed": 1, "failed": 600}
        left = results(client, done["error_file_id"])
        assert {row["error"]["code"] for row in left} == {"results_too_large"}
        assert {row["custom_id"] for row in left} == {str(i) for i in range(600)}


def test_null_does_not_store_responses_either(tmp_path: Path) -> None:
    url = "/v1/responses"
    with asking(serving(tmp_path / "files", DoesAll())) as client:
        lines = [request("a", url=url, store=None), request("b", url=url), request("c", url=url, store=True)]
        done = ended(client, begin(client, *lines, endpoint=url))
        found = {row["custom_id"]: row["response"]["body"]["id"] for row in results(client, done["output_file_id"])}
        kept = {id_ for id_, response in found.items() if client.get(f"{url}/{response}").status_code == 200}
        assert kept == {"c"}


def test_uploads_that_end_early_or_whose_key_is_gone_keep_nothing(tmp_path: Path) -> None:
    key = Key("k", digest_of(SECRET))
    store = FileStore(tmp_path / "files", Limits())
    upload = store.begin(key, 100)
    upload.close()
    with (tmp_path / "other").open("w+b") as other:  # it has the descriptor that was the upload's
        upload.write(b"bytes of somebody else")
        assert other.read() == b""
    with pytest.raises(UsageError, match="the end of its upload"):
        upload.keep("in.jsonl", 3600, private=True)
    late = store.begin(key, 100)
    key.gone = True
    store.forget("k")
    with pytest.raises(Unauthorised, match="key k: got one that is gone"):
        late.keep("in.jsonl", 3600, private=True)
    late.close()
    batch = StoredBatch(
        id="batch_x", owner="k", endpoint=CHAT, input_file_id="file-x", completion_window="24h", status="validating",
        private=True, created_at=1, expires_at=2,
    )  # fmt: skip
    with pytest.raises(Unauthorised, match="key k: got one that is gone"):
        store.keep_batch(batch, new=True, key=key)
    assert list((tmp_path / "files").iterdir()) == [] and store._coming == {}
    (tmp_path / "files").rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.begin(key, 100)
    assert store._coming == {}


def test_what_a_kill_left_of_batches_and_records_goes(tmp_path: Path) -> None:
    """Texts of a key that is gone do not stay because somebody pulled the plug in that moment."""
    folder = tmp_path / "files"
    with asking(serving(folder, Slow("7"))) as client:
        over = ended(client, begin(client, request("a")))["id"]
        runs = begin(client, request("a", "7"))["id"]
        until(folder, (folder / f"{runs}.err").exists)
    (folder / f"{runs}.out").touch()
    for left in (f"{over}.err", "batch_gone.out", ".batch_gone.json.0123456789ab.part"):
        (folder / left).write_text("of somebody")
    (folder / "batch_broken.json").write_text("{")
    (folder / "batch_broken.out").write_text("stays with its record")
    store = FileStore(folder, Limits())
    store.close()
    left = {
        path.name for path in folder.iterdir() if "of somebody" in path.read_text() or path.suffix in (".out", ".err")
    }
    assert left >= {f"{runs}.out", "batch_broken.out"} and left <= {f"{runs}.out", f"{runs}.err", "batch_broken.out"}


class Drops(str):
    """A name that, when it is looked at, has a file removed meanwhile, as another thread may."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        self.meanwhile()
        return str.__eq__(self, other)

    def meanwhile(self) -> None:
        raise NotImplementedError


def test_a_key_is_forgotten_while_others_remove_files(tmp_path: Path) -> None:
    store, key = FileStore(tmp_path / "files", Limits()), Key("k", digest_of(SECRET))
    files = []
    for _ in range(3):
        upload = store.begin(key, 1)
        files.append(upload.keep("in.jsonl", 3600, private=True))
    files[0].owner = Drops("k")
    files[0].owner.meanwhile = lambda: store.files.pop(files[2].id, None)  # type: ignore[attr-defined]
    store.forget("k")
    assert not store.files
    store.close()
