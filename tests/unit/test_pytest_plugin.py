"""The pytest plug-in, in runs of their own; and docs/testing.md, whose examples are pasted into a file and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme  # noqa: F401  # pytester unloads what its tests load, and cryptography bears no second load

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
# Strict in every respect, and any warning is an error: also of threads and sockets that nobody closed.
OPTIONS = ["-p", "bulkmail.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "error"]
OPTIONS += ["--strict-markers", "--strict-config"]
ASYNCIO = ["-o", "asyncio_default_fixture_loop_scope=function"]
HEAD = "import asyncio, smtplib, pytest\n"
HEAD += """
def send(sink, text="Subject: x\\n\\nx\\n", to="b@example.com"):
    with smtplib.SMTP(sink.host, sink.port, timeout=20) as client:
        return client.sendmail("a@example.com", to, text)
"""


@pytest.fixture
def outcome(pytester, monkeypatch):
    """outcome(code, *options) -> the result of a pytest run of that code."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(code, *options, head=HEAD, asyncio=ASYNCIO):
        pytester.makepyfile(head + code)
        return pytester.runpytest_subprocess(*OPTIONS, *asyncio, *options)

    return run


TESTS = """
import bulkmail.sink, threading

def test_sync(smtp_sink):
    assert send(smtp_sink) == {} and len(smtp_sink.wait_for(1)) == 1

def test_the_next_one_is_empty(smtp_sink, smtp_sink_factory):
    assert smtp_sink.messages == [] and smtp_sink.counts["connections"] == 0
    other = smtp_sink_factory()
    send(other)
    assert (len(smtp_sink.messages), len(other.messages)) == (0, 1)

def test_the_threads_of_the_others_are_gone():
    assert [thread.name for thread in threading.enumerate() if thread.name == "smtp_sink"] == []

def test_a_client_that_stays(smtp_sink):
    global client
    client = smtplib.SMTP(smtp_sink.host, smtp_sink.port, timeout=20)

def test_that_client_was_told_to_go():
    assert client.docmd("NOOP")[0] == 421
    client.close()

def test_a_loop_of_its_own(smtp_sink):
    async def main():
        sending = asyncio.create_task(asyncio.to_thread(send, smtp_sink))
        await smtp_sink.wait_for_async(1)
        await sending
    asyncio.run(main())

@pytest.mark.asyncio
async def test_pytest_asyncio_with_code_that_blocks(smtp_sink):
    send(smtp_sink)
    assert len(smtp_sink.wait_for(1)) == 1

@pytest.mark.asyncio
async def test_pytest_asyncio_with_code_that_awaits(smtp_sink):
    sending = asyncio.create_task(asyncio.to_thread(send, smtp_sink))
    assert len(await smtp_sink.wait_for_async(1)) == 1
    await sending

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_anyio(smtp_sink):
    import anyio
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, send, smtp_sink)
        assert len(await smtp_sink.wait_for_async(1)) == 1

@pytest.mark.smtp_sink(max_recipients=1, auth="ann:secret")
class TestMarked:
    def test_class(self, smtp_sink):
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(smtp_sink)

    @pytest.mark.smtp_sink(auth=None)
    def test_own_wins(self, smtp_sink):
        assert list(send(smtp_sink, to=["b@example.com", "c@example.com"])) == ["c@example.com"]

@pytest.mark.smtp_sink(lmtp=True)
def test_lmtp(smtp_sink):
    assert smtp_sink.url.startswith("lmtp://")
    with smtplib.LMTP(smtp_sink.host, smtp_sink.port, timeout=20) as client:
        client.sendmail("a@example.com", "b@example.com", "x")

@pytest.mark.parametrize("times", range(5))
def test_many(smtp_sink, times):
    send(smtp_sink)
    assert len(smtp_sink.messages) == 1
"""


def test_every_kind_of_test_can_use_it(outcome):
    for package in ("pytest_asyncio", "anyio"):
        pytest.importorskip(package)
    outcome(TESTS, "-p", "no:xdist").assert_outcomes(passed=17)


@pytest.mark.slow
def test_workers_of_xdist_have_sinks_of_their_own(outcome):
    for package in ("pytest_asyncio", "anyio", "xdist"):
        pytest.importorskip(package)
    outcome(TESTS, "-n", "2", "--dist", "loadgroup", "-k", "not client and not threads").assert_outcomes(passed=14)


def test_the_examples_of_the_page_run_as_they_stand(outcome, pytester):
    for package in ("pytest_asyncio", "trustme"):
        pytest.importorskip(package)
    for number, code in enumerate(EXAMPLES):
        (pytester.path / f"test_example_{number}.py").write_text(code)
    assert len(EXAMPLES) >= 8
    tests = sum(len(re.findall(r"\bdef test_", code)) for code in EXAMPLES)
    outcome("", head="").assert_outcomes(passed=tests)


FAILING = """
def test_nothing_comes(smtp_sink):
    with pytest.raises(smtplib.SMTPDataError):
        send(smtp_sink, "x" * 200)
    send(smtp_sink)
    smtp_sink.wait_for(2, timeout=0.01)

def test_a_word(smtp_sink): ...
pytestmark = pytest.mark.smtp_sink(max_size=100, without=["SIZE"])
test_a_word = pytest.mark.smtp_sink(True)(test_a_word)

@pytest.mark.smtp_sink(max_sise=1)
def test_a_slip(smtp_sink): ...

@pytest.mark.smtp_sink(tls="always")
def test_tls(smtp_sink): ...

@pytest.mark.smtp_sink(store="box")
def test_store(smtp_sink): ...
"""


def test_what_is_wrong_is_told_in_one_sentence(outcome):
    result = outcome(FAILING)
    result.assert_outcomes(failed=1, errors=4)
    result.stdout.fnmatch_lines(
        [
            "E *takes keywords only, such as smtp_sink(tls=True)*",
            "E *there is no option 'max_sise' of a sink; did you mean 'max_size'?",
            "E *'tls' of a sink is True, False, 'starttls' or 'implicit', not 'always'",
            "E *keeps its messages in a list: there is no option 'store'",
            "> *smtp_sink.wait_for(2, timeout=0.01)",
            "E *expected 2 messages within 0.01 s, got 1 (connections 2, messages 1, *refused 1)",
            "E *came: <a@example.com> to b@example.com: x",
            "E *refused: 552 5.3.4 *",
        ]
    )
    # The test's own line is the last that is shown.
    assert "threaded.py" not in result.stdout.str().split("test_nothing_comes")[-1]


def test_a_certificate_needs_trustme_and_says_so(outcome, pytester):
    pytester.makeconftest("import sys\nsys.modules['trustme'] = None\n")
    result = outcome("@pytest.mark.smtp_sink(tls=True)\ndef test_tls(smtp_sink): ...\ndef test_clear(smtp_sink): ...\n")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*trustme, which is not installed: `pip install trustme`*"])


def test_loading_it_twice_is_loading_it_once(outcome, pytester):
    pytester.makeconftest("pytest_plugins = ['bulkmail.pytest_plugin']\n")
    outcome("def test_one(smtp_sink): ...\n").assert_outcomes(passed=1)


def test_a_run_that_asks_for_no_sink_loads_nothing_of_it(outcome):
    code = """
import sys
def test_one():
    ours = {name for name in sys.modules if name.startswith("bulkmail")}
    assert ours == {"bulkmail", "bulkmail.pytest_plugin"}
    assert not {"uvloop", "trustme"} & sys.modules.keys()
"""
    outcome(code, head="", asyncio=["-p", "no:asyncio"]).assert_outcomes(passed=1)


def test_the_entry_point_has_the_name_of_its_module():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"bulkmail.pytest_plugin": "bulkmail.pytest_plugin"}


def test_the_plug_in_does_not_need_what_only_some_have():
    code = "import sys; sys.modules.update(uvloop=None, trustme=None, anyio=None); import bulkmail.pytest_plugin"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
