"""The service's log: lines of events, and what libraries say."""

import asyncio
import io
import json
import logging
import sys

import pytest

from herd.server.log import LibraryLogHandler, Log


@pytest.fixture
def logger() -> logging.Logger:
    found = logging.Logger("library")
    found.propagate = False
    return found


def test_a_librarys_message_is_a_line_without_the_text_of_its_error(logger: logging.Logger) -> None:
    out = io.StringIO()
    log = Log("json", out)
    logger.addHandler(LibraryLogHandler(log))
    logger.info("nobody need know")
    logger.warning("slow: %s", "reader\nits prompt was a-canary")
    try:
        raise ValueError("a-canary")
    except ValueError:
        logger.exception("failed")
    log.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(x["event"], x["said"], x.get("error")) for x in lines] == [
        ("library", "slow: reader", None),
        ("library", "failed", "ValueError"),
    ]
    assert "a-canary" not in out.getvalue()


def test_a_cancelled_task_is_no_news(logger: logging.Logger) -> None:
    out = io.StringIO()
    log = Log("text", out)
    logger.addHandler(LibraryLogHandler(log))
    try:
        raise asyncio.CancelledError
    except asyncio.CancelledError:
        logger.error("Exception in ASGI application", exc_info=sys.exc_info())
    log.close()
    assert out.getvalue() == ""


def test_a_reader_that_is_gone_is_counted_and_no_reason_to_end() -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    log = Log("text", Gone())
    log.event("one")
    log.event("two")
    log.close()
    assert log.dropped == 2
