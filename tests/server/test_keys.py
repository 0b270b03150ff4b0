"""Keys: who is let in, and how often."""

import asyncio
import io
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from serving import fake_service

from herd.errors import Busy, Forbidden, NotFound, QuotaSpent, Unauthorised, UsageError
from herd.server.keys import Bucket, Key, Keyring, digest_of, plain_key, read_keys
from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.requests.generate_request import GenerateRequest
from herd.server.response_store import Items, StoredResponse
from herd.server.run import reload_keys
from herd.server.service import Caller

SECRET = "a-secret-of-some-length"


def test_a_key_is_found_in_either_header() -> None:
    ring = Keyring([plain_key("another-secret-here", "a"), plain_key(SECRET, "b")])
    assert ring.find(f"Bearer {SECRET}", "").name == "b"
    assert ring.find(f"bearer  {SECRET}", "").name == "b"
    assert ring.find("", SECRET).name == "b"


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [("", ""), ("Bearer", ""), ("Bearer ", ""), (SECRET, ""), (f"Basic {SECRET}", ""), ("Bearer x", SECRET[:-1])],
)
def test_anything_else_is_refused_without_quoting_it(authorization: str, x_api_key: str) -> None:
    with pytest.raises(Unauthorised) as caught:
        Keyring([plain_key(SECRET)]).find(authorization, x_api_key)
    assert SECRET[:8] not in str(caught.value)


def test_an_empty_secret_is_no_key_even_if_one_has_its_digest() -> None:
    with pytest.raises(Unauthorised):
        Keyring([Key("x", digest_of(""))]).find("Bearer ", "")


def test_without_keys_everybody_is_local() -> None:
    assert Keyring().find("", "").name == "local"


def test_rights_requests_at_once_and_quotas() -> None:
    key = Key("k", rights=frozenset({"chat"}), at_once=2, requests_per_minute=3)
    key.check_right("chat")
    with pytest.raises(Forbidden, match="k may not manage"):
        key.check_right("manage")
    key.enter(64)
    key.enter(64)
    with pytest.raises(Busy, match="under way"):
        key.enter(64)
    key.leave()
    key.enter(64)
    key.leave()
    with pytest.raises(QuotaSpent) as caught:
        key.enter(64)
    assert 0 < caught.value.retry_after_s <= 20


def test_only_where_there_are_keys_has_each_a_share(tmp_path: Path) -> None:
    async def two_at_once(*keys: Key) -> None:
        service = fake_service(tmp_path, limits=Limits(per_key=1), keys=keys)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(service.models.close)
            for i in range(2):
                caller = Caller(service.keyring.find("", SECRET), str(i), "/test")
                stack.callback(caller.enter(service).close)
                answer = await service.open(caller, GenerateRequest(model="fake", prompt="Hi"))
                stack.push_async_callback(answer.aclose)

    asyncio.run(two_at_once())
    with pytest.raises(Busy, match="expected at most 1"):
        asyncio.run(two_at_once(plain_key(SECRET, "b")))


def test_a_bucket_fills_up_by_the_monotonic_clock() -> None:
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.take(70)
    assert bucket.wait_s() == pytest.approx(11.0)
    now[0] = 11.0
    assert bucket.wait_s() == 0.0
    now[0] = 1e6
    bucket.take(60)
    assert bucket.wait_s() == pytest.approx(1.0)
    assert Bucket(None).wait_s() == 0.0


def test_keys_that_stay_go_on_counting_and_others_come_and_go() -> None:
    ring = Keyring([Key("a", digest_of("a" * 20), requests_per_minute=3), Key("b", digest_of("b" * 20))])
    stays = ring.find("", "a" * 20)
    stays.enter(9)
    stays.enter(9)
    new = [Key("a", digest_of("A" * 20), requests_per_minute=4, at_once=3, policy="block"), plain_key("c" * 20, "c")]
    assert ring.replace(new) == ["b"]
    for gone in ("a" * 20, "b" * 20):
        with pytest.raises(Unauthorised):
            ring.find("", gone)
    assert ring.find("", "A" * 20) is stays, "another secret of the same key"
    assert (stays.under_way, stays.policy, ring.find("", "c" * 20).name, len(ring)) == (2, "block", "c", 2)
    stays.enter(9)
    with pytest.raises(Busy, match="under way"):
        stays.enter(9)
    stays.leave()
    stays.enter(9)
    stays.leave()
    with pytest.raises(QuotaSpent):
        stays.enter(9)


def test_keys_that_are_wrong_change_nothing() -> None:
    ring = Keyring([plain_key(SECRET, "a")])
    for wrong in ([], [Key("x"), Key("x")], [Key("x", policy="all")]):
        with pytest.raises(UsageError):
            ring.replace(wrong)
        assert ring.find("", SECRET).name == "a"


def test_a_bucket_that_changes_remembers_what_was_used() -> None:
    now_s = 0.0
    bucket = Bucket(10, lambda: now_s)
    bucket.take(10)
    bucket.change(20)
    assert bucket.wait_s(10) == 0 < bucket.wait_s(11)
    bucket.change(None)
    bucket.take(100)
    assert bucket.wait_s(1000) == 0
    bucket.change(5)
    assert bucket.wait_s(5) == 0 < bucket.wait_s() + 1


def test_a_reload_says_in_the_log_what_it_did(tmp_path: Path) -> None:
    file, out = tmp_path / "keys.toml", io.StringIO()
    file.touch(0o600)

    def reload(text: str) -> None:
        file.write_text(text)
        asyncio.run(reload_keys(service, lambda tell: read_keys(file, tell)))

    log = Log("json", out)
    service = fake_service(tmp_path, keys=(plain_key(SECRET, "a"),), log=log)
    service.responses.keep(
        service.keyring.find("", SECRET), StoredResponse({"id": "resp_1", "status": "completed"}, Items(None, []))
    )
    entry = '[[key]]\nname = "{}"\nsecret = "{}"\n'
    for wrong in ("", "[[key]", entry.format("b", "short"), entry.format("a", SECRET) + "[[key]]\nname = 3\n"):
        reload(wrong)
        assert service.keyring.find("", SECRET).name == "a" and len(service.responses) == 1
    reload(entry.format("b", "b" * 20))
    assert service.keyring.find("", "b" * 20).name == "b" and len(service.responses) == 0
    log.close()
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["keys stay as they were"] * 4 + ["keys"]
    assert (told[-1]["keys"], told[-1]["gone"]) == (1, 1)
    assert SECRET not in out.getvalue() and "short" not in out.getvalue()


def test_a_keys_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[[key]]\nname = "a"\nsecret = "{SECRET}"\nrights = ["chat"]\ntokens_per_minute = 100\n'
        f'[[key]]\nname = "b"\nsha256 = "{digest_of("b" * 20).hex()}"\npriority = 1\n'
    )
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        read_keys(path)
    path.chmod(0o600)
    a, b = read_keys(path)
    assert (a.rights, a.tokens_per_minute, b.priority) == ({"chat"}, 100, 1)
    assert Keyring([a, b]).find("Bearer " + "b" * 20, "") is b


@pytest.mark.parametrize(
    "text",
    [
        "[[key]]\n",
        '[[key]]\nname = "a b"\nsecret = "aaaaaaaaaaaaaaaaaaaa"\n',
        '[[key]]\nname = "a"\nsecret = "short"\n',
        '[[key]]\nname = "a"\nsha256 = "xyz"\n',
        '[[key]]\nname = "a"\nsecret = "aaaaaaaaaaaaaaaaaaaa"\nrights = ["everything"]\n',
        '[[key]]\nname = "a"\nsecret = "aaaaaaaaaaaaaaaaaaaa"\nright = ["chat"]\n',
        "key = 1\n",
        "[[key",
    ],
)
def test_a_bad_keys_file_is_refused_without_quoting_secrets(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError) as caught:
        Keyring(read_keys(path))
    assert "aaaa" not in str(caught.value)
    with pytest.raises(NotFound):
        read_keys(tmp_path / "none.toml")
