from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from coursewire import logs
from coursewire.errors import InvalidConfiguration
from coursewire.settings import Secret


@pytest.fixture
def configured() -> Iterator[Callable[[str], Callable[[], list[dict[str, object]]]]]:
    """`configured(level)` gives a function that returns the lines written since."""
    root = logging.getLogger()
    handlers, level, old = root.handlers[:], root.level, structlog.get_config()

    def configure(level: str) -> Callable[[], list[dict[str, object]]]:
        stream = io.StringIO()
        logs.configure(level, stream=stream)
        return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**old)


def test_an_event_is_one_json_object_a_line(configured):
    """With its level and the time in UTC; odd text does not break a line."""
    lines = configured("info")
    structlog.get_logger().info("it happened", source="chalk", odd="\udcff\n", secret=Secret("s3cret"))
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "it happened",
        "level": "info",
        "source": "chalk",
        "odd": "\udcff\n",
        "secret": "Secret('***')",
    }


def test_the_level_is_the_lowest_that_is_written(configured):
    """What is below is dropped."""
    lines = configured("warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines()] == ["loud"]


def test_other_libraries_speak_the_same_way_and_only_when_something_is_wrong(configured):
    """Their warnings come in our form, with the logger's name."""
    lines = configured("debug")
    logging.getLogger("kombu").info("chatter")
    logging.getLogger("kombu").warning("lost %s", "it")
    assert [(line["event"], line["level"], line["logger"]) for line in lines()] == [
        ("lost it", "warning", "kombu")
    ]


@pytest.mark.parametrize("logger", [structlog.get_logger(), logging.getLogger("celery")])
def test_an_exception_is_written_without_its_message(configured, logger):
    """It may quote a callback; its kind and the places it went through are enough."""
    lines = configured("info")
    try:
        int("personal data")
    except ValueError:
        logger.error("failed", exc_info=True)
    (line,) = lines()
    assert str(line["error"]).startswith("ValueError at ")
    assert "test_an_exception_is_written_without_its_message" in str(line["frames"])
    assert "personal" not in json.dumps(line)


def test_an_exception_in_the_words_of_another_library_loses_its_message_too(configured):
    lines = configured("info")
    logging.getLogger("celery").error("unrecoverable: %r of %s", ValueError("personal data"), "queue")
    (line,) = lines()
    assert line["event"] == "unrecoverable: 'ValueError' of queue"


def test_our_own_exceptions_keep_their_words(configured):
    """They are written to be shown."""
    lines = configured("info")
    structlog.get_logger().error("failed", exc_info=InvalidConfiguration("sources.x", "is wrong"))
    assert lines()[0]["error"] == "sources.x: is wrong"
