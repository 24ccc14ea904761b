"""What a job with `dsn` asks of its relay, and that one without asks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkmail import Job, ManifestError
from bulkmail.job.report import iter_report
from integration.cli_program import write_job

PERSONAL = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Hello {{ name }}.\n"}
SHARED = {"from": "news@example.com", "subject": "Hello", "text": "Hello.\n"}
ROWS = '{"email":"ann+news@example.net","name":"Ann"}\n{"email":"bob@example.net","name":"Bob"}\n'


class Ear:
    """Hears what is asked of each RCPT."""

    def __init__(self) -> None:
        self.rcpt: dict[str, dict[str, str | None]] = {}

    def on_rcpt(self, session: Any, address: str, parameters: dict[str, str | None]) -> None:
        self.rcpt[address] = dict(parameters)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def sink(smtp_sink_factory: Any, ear: Ear) -> Any:
    return smtp_sink_factory(ear)


def sent(folder: Path, sink: Any, message: dict[str, Any], **keys: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """(the messages, the report's lines)."""
    report = Job.load(write_job(folder, sink.url, ROWS, message=message, **keys)).run()
    assert report.exit_code == 0
    return sink.messages, list(iter_report(folder / "news.journal"))


def local(message_id: str) -> str:
    return message_id.strip("<>").partition("@")[0]


def test_a_personal_message_has_an_envid_of_its_own(sink: Any, ear: Ear, tmp_path: Path) -> None:
    messages, report = sent(tmp_path, sink, PERSONAL, dsn={"notify": ["failure", "delay"]})
    ids = {line["recipient"]: local(line["message_id"]) for line in report}
    assert len(messages) == 2
    for message in messages:
        (recipient,) = message.recipients
        assert (message.parameters["ENVID"], message.parameters["RET"]) == (ids[recipient], "HDRS")
        assert ear.rcpt[recipient] == {"NOTIFY": "FAILURE,DELAY", "ORCPT": "rfc822;" + recipient.replace("+", "+2B")}


def test_of_a_shared_message_each_recipient_is_named(sink: Any, ear: Ear, tmp_path: Path) -> None:
    (message,), report = sent(tmp_path, sink, SHARED, dsn={"ret": "full"})
    assert {message.parameters["ENVID"]} == {local(line["message_id"]) for line in report}
    assert message.parameters["RET"] == "FULL"
    assert {one["ORCPT"] for one in ear.rcpt.values()} == {"rfc822;ann+2Bnews@example.net", "rfc822;bob@example.net"}


@pytest.mark.parametrize(
    ("keys", "asked"),
    [({}, set()), ({"dsn": {"envid": False}}, {"RET"}), ({"dsn": {"notify": ["never"]}}, {"RET", "ENVID"})],
)
def test_nothing_is_asked_that_was_not_wanted(
    sink: Any, ear: Ear, tmp_path: Path, keys: dict[str, Any], asked: set[str]
) -> None:
    messages, _ = sent(tmp_path, sink, PERSONAL, **keys)
    for message in messages:
        assert {"RET", "ENVID"} & message.parameters.keys() == asked
    assert {"NOTIFY" in one for one in ear.rcpt.values()} == {bool(keys)}


def test_a_ready_message_has_no_envid(sink: Any, ear: Ear, tmp_path: Path) -> None:
    (tmp_path / "ready.eml").write_text("From: news@example.com\nMessage-ID: <own@x>\nSubject: x\n\nHello.\n")
    (message,), _ = sent(tmp_path, sink, {"raw": "ready.eml"}, dsn={})
    assert "ENVID" not in message.parameters and message.parameters["RET"] == "HDRS"


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ({"notify": ["never", "failure"]}, "$.dsn.notify"),
        ({"notify": []}, "$.dsn.notify"),
        ({"ret": "some"}, "$.dsn.ret"),
        ({"envelope": True}, "$.dsn.envelope"),
    ],
)
def test_a_wrong_dsn_is_refused_with_its_place(tmp_path: Path, dsn: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError) as wrong:
        Job.load(write_job(tmp_path, "smtp://127.0.0.1:1", ROWS, message=PERSONAL, dsn=dsn))
    assert wrong.value.path == said
