"""A job in variants, with seeds, chosen recipients: what arrives is what the report says, after a resume too."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import pytest

import bulkmail
from bulkmail.errors import ManifestError
from bulkmail.job.job import Job
from bulkmail.job.report import iter_report, write_report
from integration.cli_program import bulkmail as program
from integration.cli_program import refused, write_job

PERSONAL = {
    "from": "News <news@example.com>",
    "subject": "base",
    "html": '<p>{{ name }} <a href="https://example.com/">read</a></p>',
    "link_parameters": {"utm_content": "{{ variant }}"},
    "list_unsubscribe": {"url": "https://example.com/u/{{ name }}", "one_click": True, "key": "0123456789abcdef"},
    "variants": [
        {"subject": "first {{ name }}"},
        {"name": "long", "weight": 3, "from": "Long <long@example.com>", "headers": {"X-Long": "{{ variant }}"}},
        {"name": "plain", "html": None, "text": "Dear {{ name }}, {{ variant }}"},
    ],
}
SHARED = {
    "from": "news@example.com",
    "subject": "s",
    "variants": [{"name": "one", "text": "One"}, {"name": "two", "text": "Two", "weight": 2}],
}
SEEDS = [{"email": "seed@example.com", "name": "S"}, {"email": "r7@example.com", "name": "S7"}]


def arrived(smtp_sink: Any) -> dict[tuple[str, str], str]:
    """(recipient, Message-ID) -> the variant, by what is in the message."""
    found = {}
    for message in smtp_sink.messages:
        text = message.content.decode()
        which = next((name for mark, name in MARKS.items() if mark in text), "?")
        for recipient in message.recipients:
            key = (recipient, message.email["Message-ID"])
            assert key not in found, "sent to twice"
            found[key] = which
    return found


MARKS = {
    "Subject: first": "A",
    "X-Long: long": "long",
    "Dear ": "plain",
    "\r\nOne": "one",
    "\r\nTwo": "two",
}


def said(journal: Path) -> dict[tuple[str, str], str]:
    rows = list(iter_report(journal, "delivered"))
    found = {(row["recipient"], row["message_id"]): row["variant"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("message", [PERSONAL, SHARED], ids=["personal", "shared"])
def test_the_report_says_which_variant_each_got(tmp_path: Path, smtp_sink: Any, message: dict[str, Any]) -> None:
    recipients = {"file": "list.jsonl", "always_include": SEEDS}
    path = write_job(tmp_path, smtp_sink.url, 200, message=message, recipients=recipients)
    summary = Job.load(path).run().summary
    seeds = len(SEEDS) * len(message["variants"])
    assert (summary["recipients"], summary["delivered"], summary["suppressed"]) == (200 + seeds, 199 + seeds, 1)
    assert said(tmp_path / "news.journal") == arrived(smtp_sink)
    assert "?" not in arrived(smtp_sink).values()
    got = Counter(which for (recipient, _), which in arrived(smtp_sink).items() if recipient == "seed@example.com")
    assert got == dict.fromkeys(got, 1), "a seed gets every variant once"
    assert len(got) == len(message["variants"])


def test_variants_are_whole_messages(tmp_path: Path, smtp_sink: Any) -> None:
    Job.load(write_job(tmp_path, smtp_sink.url, 100, message=PERSONAL)).run()
    by_variant: dict[str, Any] = {}
    for message in smtp_sink.messages:
        which = arrived_one(message)
        by_variant[which] = message
        assert message.email["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert (
            parseaddr(message.email["From"])[1]
            == message.sender
            == ("long@example.com" if which == "long" else "news@example.com")
        )
    assert by_variant.keys() == {"A", "long", "plain"}
    assert "utm_content=3DA" in by_variant["A"].content.decode()
    assert not by_variant["plain"].html
    assert ", plain" in by_variant["plain"].text
    assert by_variant["long"].email["Subject"] == "base"


def arrived_one(message: Any) -> str:
    text = message.content.decode()
    return next(name for mark, name in MARKS.items() if mark in text)


@pytest.mark.parametrize("message", [PERSONAL, SHARED], ids=["personal", "shared"])
def test_a_resumed_job_goes_on_with_the_same_variants(tmp_path: Path, smtp_sink: Any, message: dict[str, Any]) -> None:
    recipients = {"file": "list.jsonl", "always_include": SEEDS, "where": "name != 'R3'", "sample": "80%"}
    path = write_job(tmp_path, smtp_sink.url, 300, message=message, recipients=recipients, limits={"connections": 1})
    first = Job.load(path)
    delivered: list[Any] = []

    def stop_once(event: dict[str, Any]) -> None:
        if event["event"] == "delivered":
            delivered.append(event)
            if len(delivered) == 1:
                first.stop()

    first.run(on_event=stop_once)
    begun = len(arrived(smtp_sink))
    report = Job.load(path).run(resume=True)
    assert report.summary["state"] == "finished"
    assert 0 < begun < report.summary["delivered"] or message is SHARED
    assert said(tmp_path / "news.journal") == arrived(smtp_sink)
    assert report.summary["delivered"] + report.summary["suppressed"] == report.summary["recipients"]
    fresh = {(recipient, which) for (recipient, _), which in arrived(smtp_sink).items()}
    smtp_sink.clear()
    Job.load(path).run(fresh=True)
    assert {(recipient, which) for (recipient, _), which in arrived(smtp_sink).items()} == fresh


def test_resume_with_other_weights_or_seeds_is_refused(
    tmp_path: Path, smtp_sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipients = {"file": "list.jsonl", "always_include": [{"email": "${SEED}", "name": "S"}]}
    monkeypatch.setenv("SEED", "seed@example.com")
    path = write_job(tmp_path, smtp_sink.url, 3, message=SHARED, recipients=recipients)
    Job.load(path).run()
    monkeypatch.setenv("SEED", "other@example.com")
    with pytest.raises(bulkmail.JournalError, match="'always_include' are not those that the job began with"):
        Job.load(path).run(resume=True)
    monkeypatch.setenv("SEED", "seed@example.com")
    assert Job.load(path).run(resume=True).summary["delivered"] == 5
    heavier = SHARED | {"variants": [SHARED["variants"][0], SHARED["variants"][1] | {"weight": 5}]}  # type: ignore[index]
    write_job(tmp_path, smtp_sink.url, 3, message=heavier, recipients=recipients)
    with pytest.raises(bulkmail.JournalError, match="another manifest"):
        Job.load(path).run(resume=True)


def test_the_share_of_a_variant_is_its_weight(tmp_path: Path, smtp_sink: Any) -> None:
    Job.load(write_job(tmp_path, smtp_sink.url, 3000, message=SHARED)).run()
    counted = Counter(arrived(smtp_sink).values())
    assert abs(counted["two"] - 2000) < 5 * (3000 * 2 / 9) ** 0.5
    assert counted["one"] + counted["two"] == 3000


def test_a_field_called_variant_does_not_hide_the_name(tmp_path: Path, smtp_sink: Any) -> None:
    rows = '{"email":"a@example.com","name":"Ann","variant":"red"}\n'
    message = {"from": "n@example.com", "variants": [{"text": "{{ variant }}"}, {"text": "{{ variant }}"}]}
    Job.load(write_job(tmp_path, smtp_sink.url, rows, message=message)).run()
    (row,) = iter_report(tmp_path / "news.journal")
    assert smtp_sink.messages[0].text.strip() == row["variant"] in ("A", "B")


def test_a_field_that_one_variant_needs_is_needed_of_all(tmp_path: Path, smtp_sink: Any) -> None:
    message = {"from": "n@example.com", "variants": [{"text": "a"}, {"text": "{{ name }}"}]}
    path = write_job(tmp_path, smtp_sink.url, '{"email":"a@example.com"}\n', message=message)
    with pytest.raises(ManifestError, match='no "name", which the message uses'):
        Job.load(path).run()
    assert not smtp_sink.messages


def test_one_personal_variant_makes_all_of_them_personal(tmp_path: Path, smtp_sink: Any) -> None:
    message = {"from": "n@example.com", "subject": "s", "variants": [{"text": "same"}, {"text": "Dear {{ name }}"}]}
    path = write_job(tmp_path, smtp_sink.url, 60, message=message)
    assert Job.load(path).run().summary["delivered"] == 60
    assert {len(mail.recipients) for mail in smtp_sink.messages} == {1}
    assert {mail.email["To"] for mail in smtp_sink.messages} == {f"r{n}@example.com" for n in range(1, 61)}
    assert len({mail.email["Message-ID"] for mail in smtp_sink.messages}) == 60
    write_job(tmp_path, smtp_sink.url, 60, message=message, mode="shared")
    with pytest.raises(ManifestError, match="mode is 'shared'"):
        Job.load(path)


def test_ready_messages_may_be_variants(tmp_path: Path, smtp_sink: Any) -> None:
    for name in "AB":
        (tmp_path / f"{name}.eml").write_bytes(f"From: n@example.com\r\nX-Variant: {name}\r\n\r\n{name}\r\n".encode())
    message = {"envelope_from": "b@example.com", "variants": [{"raw": "A.eml"}, {"raw": "B.eml"}]}
    Job.load(write_job(tmp_path, smtp_sink.url, 20, message=message)).run()
    rows = {row["recipient"]: row["variant"] for row in iter_report(tmp_path / "news.journal")}
    got = {to: mail.email["X-Variant"] for mail in smtp_sink.messages for to in mail.recipients}
    assert rows == got
    assert set(got.values()) == {"A", "B"}


def test_signed_variants(tmp_path: Path, smtp_sink: Any, dkim_key: Callable[[], str]) -> None:
    message = PERSONAL | {"dkim": {"domain": "example.com", "selector": "s", "key": dkim_key()}}
    path = write_job(tmp_path, smtp_sink.url, 30, message=message)
    assert Job.load(path).run().summary["delivered"] == 30
    assert all("d=example.com" in mail.email["DKIM-Signature"] for mail in smtp_sink.messages)
    assert said(tmp_path / "news.journal") == arrived(smtp_sink)


@pytest.fixture
def dkim_key() -> Callable[[], str]:
    def make() -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return Ed25519PrivateKey.generate().private_bytes(*pem).decode()

    return make


def test_reports_have_the_column_only_where_there_are_variants(tmp_path: Path, smtp_sink: Any) -> None:
    path = write_job(tmp_path, smtp_sink.url, 4, message=SHARED, recipients={"file": "list.jsonl", "sample": "50%"})
    Job.load(path).run()
    out = io.StringIO()
    write_report(tmp_path / "news.journal", "csv", out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert all(bool(row["variant"]) == (row["state"] == "delivered") for row in rows)
    write_job(tmp_path, smtp_sink.url, 4)
    Job.load(path).run(fresh=True)
    assert all("variant" not in row for row in iter_report(tmp_path / "news.journal"))


# -- before anything is sent


def test_preview_shows_the_recipients_own_variant_or_the_one_asked_for(tmp_path: Path) -> None:
    recipients = {"file": "list.jsonl", "always_include": SEEDS}
    write_job(tmp_path, "smtp://127.0.0.1:1", 20, message=PERSONAL, recipients=recipients)
    assert program("preview", "news.json", "--index", "1-20", cwd=tmp_path).returncode == 0
    assert program("send", "news.json", "--dry-run", cwd=tmp_path).returncode == 0
    texts = {path.stem: path.read_text() for path in (tmp_path / "preview").glob("*.eml")}
    assert len(texts) == 20
    assert {next(name for mark, name in MARKS.items() if mark.strip() in text) for text in texts.values()} == {
        "A",
        "long",
        "plain",
    }
    done = program("preview", "news.json", "--index", "1-3", "--variant", "plain", "--out", "plain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(", plain" in path.read_text() for path in (tmp_path / "plain").glob("*.txt"))
    refused(program("preview", "news.json", "--variant", "none", cwd=tmp_path), "there is no variant 'none'", "'plain'")
    done = program("preview", "news.json", "--recipient", "Seed@example.com", "--json", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "preview").glob("seed*.eml")} == {
        "seed-1.eml",
        "seed-1-2.eml",
        "seed-1-3.eml",
    }, done


def test_a_test_copy_is_the_variant_of_the_first_who_is_chosen(tmp_path: Path, smtp_sink: Any) -> None:
    recipients = {"file": "list.jsonl", "where": "name != 'R1'", "always_include": SEEDS}
    path = write_job(tmp_path, smtp_sink.url, 5, message=PERSONAL, recipients=recipients)
    job = Job.load(path)
    assert job.run(test_to="me@example.com", limit=3).summary["delivered"] == 3
    assert [mail.recipients for mail in smtp_sink.messages] == [["me@example.com"]] * 3
    names = {"A": "A", "long": "long", "plain": "plain"}
    own = [names[job.compiled.of(number, f"r{number}@example.com")] for number in (2, 3, 4)]  # type: ignore[union-attr]
    assert [arrived_one(mail) for mail in smtp_sink.messages] == own
    assert "R2" in smtp_sink.messages[0].content.decode()


def findings(path: Path) -> list[tuple[str, str, str]]:
    return [(one.id, one.path, one.text) for one in Job.load(path).check()]


def test_check_looks_at_every_variant_and_names_those_it_speaks_of(tmp_path: Path) -> None:
    message = {
        "from": "news@example.com",
        "subject": "s",
        "text": "t {{ name }}",
        "variants": [{}, {"name": "loud", "html": '<a href="http://example.com/">x</a>', "subject": "RE: s"}],
    }
    path = write_job(
        tmp_path, "smtp://127.0.0.1:1", 3, message=message, recipients={"file": "list.jsonl", "where": "1"}
    )
    found = findings(path)
    of_one = [one for one in found if "(variant loud)" in one[2]]
    assert any(where.startswith("$.message.variants[1].html") for _, where, _ in of_one), found
    assert any("variant" not in text for _, _, text in found), "what all have in common is told once"
    assert len({(kind, where) for kind, where, _ in found}) == len(found)


def test_check_counts_who_is_left_out_by_reason(tmp_path: Path) -> None:
    recipients = {"file": "list.jsonl", "where": "name != 'R1'", "always_include": SEEDS, "deduplicate": True}
    path = write_job(tmp_path, "smtp://127.0.0.1:1", 9, recipients=recipients)
    notes = [text for kind, _, text in findings(path) if kind == "suppressed"]
    assert sorted(notes) == ["1 recipients are left out by 'where'", "1 recipients are seeds, and in the list too"]


VARIANTS: list[tuple[Any, str, str]] = [
    ([{}], "$.message.variants", "at least 2"),
    ([{}, {"dkim": None}], "$.message.variants[1].dkim", "all variants have the signatures of the message"),
    ([{}, {"subjet": "x"}], "$.message.variants[1].subjet", "did you mean 'subject'?"),
    ([{}, {"weight": 0}], "$.message.variants[1].weight", "0, expected a number above 0"),
    ([{}, {"weight": True}], "$.message.variants[1].weight", "expected a number above 0"),
    ([{}, {"name": " x"}], "$.message.variants[1].name", "expected a name of 1 to 40 printable characters"),
    ([{"name": "B"}, {}], "$.message", "two variants are called 'B'"),
    ([{}, {"text": None}], "$.message", "variant 'B': there is nothing to send"),
    ([{}, {"subject": "{{ x"}], "$.message.variants[1].subject", "subject, line 1"),
    ([{}, {"cc": "x@y.org"}], "$.message.variants[1].cc", "would get every copy"),
    ([{}, {"raw": "list.jsonl"}], "$.message", "variant 'B': 'raw' is a whole message"),
]


@pytest.mark.parametrize(("variants", "path", "text"), VARIANTS)
def test_what_is_wrong_with_a_variant_is_told_at_its_place(tmp_path: Path, variants: Any, path: str, text: str) -> None:
    message = {"from": "n@example.com", "text": "t", "variants": variants}
    manifest = write_job(tmp_path, "smtp://127.0.0.1:1", message=message)
    with pytest.raises(ManifestError) as caught:
        Job.load(manifest)
    assert path in [where for where, _ in caught.value.problems]
    assert text in str(caught.value)


def test_a_problem_of_the_message_itself_is_told_once(tmp_path: Path) -> None:
    message = {"from": "n@example.com", "subject": "{{ x", "variants": [{"text": "a"}, {"text": "b"}]}
    with pytest.raises(ManifestError) as caught:
        Job.load(write_job(tmp_path, "smtp://127.0.0.1:1", message=message))
    assert [where for where, _ in caught.value.problems] == ["$.message.subject"]


RECIPIENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"where": "age >"}, "$.recipients.where", "unexpected 'end of template'"),
    ({"where": "a | nosuch"}, "$.recipients.where", "no filter named 'nosuch'"),
    ({"sample": 1000}, "$.recipients.sample", "--limit takes a number of recipients"),
    ({"sample": "1000"}, "$.recipients.sample", "expected a share"),
    ({"sample": "0%"}, "$.recipients.sample", "expected a share"),
    ({"sample": "100.01%"}, "$.recipients.sample", "expected a share"),
    ({"sample": "-1%"}, "$.recipients.sample", "expected a share"),
    ({"always_include": ["nobody"]}, "$.recipients.always_include[0]", "nobody"),
    ({"always_include": ["a@x.org", {"name": "x"}]}, "$.recipients.always_include[1]", "an object with 'email'"),
    ({"always_include": [5]}, "$.recipients.always_include[0]", "expected an address or an object"),
    ({"always_include": ["a@x.org"] * 1001}, "$.recipients.always_include", "1000"),
]


@pytest.mark.parametrize(("keys", "path", "text"), RECIPIENTS)
def test_what_is_wrong_with_a_choice_is_told_at_its_place(
    tmp_path: Path, keys: dict[str, Any], path: str, text: str
) -> None:
    manifest = write_job(tmp_path, "smtp://127.0.0.1:1", recipients={"file": "list.jsonl"} | keys)
    with pytest.raises(ManifestError) as caught:
        Job.load(manifest)
    assert [where for where, _ in caught.value.problems] == [path]
    assert text in str(caught.value)


def test_a_manifest_without_these_keys_keeps_its_digest(tmp_path: Path) -> None:
    """Journals of jobs that use none of this can be resumed by this version."""
    plain = write_job(tmp_path, "smtp://127.0.0.1:1", recipients={"file": "list.jsonl"})
    digest = Job.load(plain).manifest.digest
    data = json.loads(plain.read_text())
    data["recipients"] |= {"where": None, "sample": None, "always_include": None}
    data["message"]["variants"] = None
    plain.write_text(json.dumps(data))
    with pytest.raises(ManifestError, match="always_include"):
        Job.load(plain)
    del data["recipients"]["always_include"]
    plain.write_text(json.dumps(data))
    assert Job.load(plain).manifest.digest == digest
