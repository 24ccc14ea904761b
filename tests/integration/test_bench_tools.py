"""The benchmark's own pieces: the floor sends what it is given, the long line is as long as it says."""

from __future__ import annotations

import json
import re
import shutil
import smtplib
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from integration.servers.common import missing

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
MESSAGE = b"Subject: floor\r\n\r\n.one dot\r\n" + b"x" * 76 + b"\r\n..two\r\n.\r\n"


def compiled(program, *options):
    """The floor client, compiled with these options."""
    compiler = next((found for name in ("gcc", "clang", "cc") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler here")
    warnings = ["-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *warnings, "-o", program, PEERS / "floor.c", *options], check=True)
    return program


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("floor") / "floor")


@pytest.fixture(scope="module")
def floor_tls(tmp_path_factory):
    if not Path("/usr/include/openssl/ssl.h").exists():
        missing("OpenSSL's headers are not installed (libssl-dev)")
    return compiled(tmp_path_factory.mktemp("floor") / "floor-tls", "-DTLS", "-lssl", "-lcrypto")


@pytest.mark.parametrize(("connections", "options"), [(1, []), (4, []), (4, ["--nap-us", "50"])])
def test_the_floor_sends_its_message_to_each_recipient_once(start_smtp_sink, floor, tmp_path, connections, options):
    server = start_smtp_sink(keep=True)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    flags = ["--port", str(server.port), "--connections", str(connections), "--messages", "30", *options]
    done = subprocess.run(
        [floor, *flags, "--message", tmp_path / "message.eml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    kept = server.dumped()
    assert all(content.endswith(MESSAGE.replace(b"\r\n", b"\n") + b"\n") for content in kept)
    to = [line for content in kept for line in content.split(b"\n") if line.startswith(b"X-Rcpt-Args")]
    assert sorted(to) == sorted(b"X-Rcpt-Args: <user%d@example.test>" % number for number in range(30))


@pytest.mark.parametrize("connections", [1, 3])
def test_the_floor_gives_a_message_to_as_many_recipients_as_it_is_told(start_smtp_sink, floor, tmp_path, connections):
    server = start_smtp_sink(keep=True)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    flags = ["--port", str(server.port), "--connections", str(connections), "--messages", "30", "--recipients", "8"]
    command = [floor, *flags, "--message", tmp_path / "message.eml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    to = [re.findall(rb"^X-Rcpt-Args: <user(\d+)@", content, re.M) for content in server.dumped()]
    assert sorted(len(its) for its in to) == [6, 8, 8, 8]
    assert sorted(int(number) for its in to for number in its) == list(range(30))


def test_the_floor_ends_with_an_error_when_it_is_refused(start_smtp_sink, floor, tmp_path):
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    flags = ["--port", str(start_smtp_sink("-f", "RCPT").port), "--messages", "3"]
    done = subprocess.run([floor, *flags, "--message", tmp_path / "message.eml"], capture_output=True, timeout=60)
    # A sink that refuses also stops announcing PIPELINING, which the floor cannot do without.
    assert done.returncode == 1 and b"PIPELINING" in done.stderr


@pytest.fixture
def peers(monkeypatch):
    """The harness's modules can be imported."""
    monkeypatch.syspath_prepend(str(PEERS.parent))
    monkeypatch.syspath_prepend(str(PEERS))


@pytest.mark.parametrize("size", [2048, 20480])
def test_the_floor_with_tls_sends_its_message_to_each_recipient_once(
    smtp_sink_factory, floor_tls, peers, tmp_path, size
):
    from messages import message
    from servers import certificate

    cert, key = certificate(tmp_path)
    ready = tmp_path / "message.eml"
    ready.write_bytes(message(size))
    server = smtp_sink_factory(tls=True, tls_cert=cert, tls_key=key)
    flags = ["--port", str(server.port), "--connections", "4", "--messages", "30", "--message", str(ready)]
    done = subprocess.run([floor_tls, *flags, "--ca-file", cert], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    to = sorted(address for kept in server.messages for address in kept.recipients)
    assert to == sorted(f"user{number}@example.test" for number in range(30))
    assert {(kept.tls, kept.content) for kept in server.messages} == {("TLSv1.3", message(size))}
    stranger = subprocess.run([floor_tls, *flags], capture_output=True, text=True, timeout=60)
    assert stranger.returncode == 1 and "certificate verify failed" in stranger.stderr


@pytest.mark.parametrize("tasks", [0, 7])
@pytest.mark.parametrize("script", ["bulkmail_library.py", "aiosmtplib_send.py"])
def test_the_library_clients_send_each_message_once(start_smtp_sink, tmp_path, script, tasks):
    pytest.importorskip("aiosmtplib" if script.startswith("aio") else "bulkmail")
    pytest.importorskip("uvloop")
    server = start_smtp_sink(keep=True)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    command = [sys.executable, PEERS / script, "--port", str(server.port), "--connections", "3", "--messages", "30"]
    command += ["--message", tmp_path / "message.eml", "--tasks", str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    to = [line for kept in server.dumped() for line in kept.split(b"\n") if line.startswith(b"X-Rcpt-Args")]
    assert sorted(to) == sorted(b"X-Rcpt-Args: <user%d@example.test>" % number for number in range(30))


def test_the_harness_has_servers_with_chunking_and_with_tls(peers, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    from servers import SINK, SINK_TLS, Servers

    (tmp_path / "message.eml").write_bytes(MESSAGE)
    with Servers(tmp_path) as servers:
        with smtplib.SMTP("127.0.0.1", servers.port(SINK, 10), timeout=20) as client:
            client.ehlo()
            assert client.has_extn("chunking") and not client.has_extn("starttls")
        with smtplib.SMTP("127.0.0.1", servers.port(SINK_TLS, 0), timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=servers.get(SINK_TLS).ca_file))
        command = [sys.executable, PEERS / "bulkmail_library.py", "--port", str(servers.port(SINK_TLS, 0))]
        command += ["--connections", "2", "--messages", "5", "--message", tmp_path / "message.eml"]
        command += ["--ca-file", servers.get(SINK_TLS).ca_file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["messages"] == 5, done.stderr


def run_of(client, rate, cpu, messages=1000):
    from tables import Run

    return Run(client, messages, messages / rate, messages / rate, cpu, 0.0, 10.0, 0.5)


def test_a_goal_compares_medians_and_says_when_it_is_missed(peers):
    from tables import Goal, goal_lines

    runs = {
        "ours": [run_of("ours", rate, 2.0) for rate in (900, 1000, 4000)],
        "theirs": [run_of("theirs", rate, 1.0) for rate in (50, 100, 100)],
        "broken": [],
    }
    short = {name: run_of(name, 10, 0.5, messages=10) for name in ("ours", "theirs")}
    goals = (
        Goal("ours", "theirs", "messages/s", least=10),
        Goal("ours", "theirs", "messages/s", least=11),
        Goal("ours", "theirs", "CPU past start-up", most=2),
        Goal("ours", "broken", "messages/s", least=1),
    )
    lines = goal_lines(goals, runs, short)[1:]
    assert "10.00, asked at least 10: reached (by round: 18.00, 10.00, 40.00)" in lines[0]
    assert "10.00, asked at least 11: MISSED" in lines[1]
    assert "3.00, asked at most 2: MISSED" in lines[2]
    assert "not measured" in lines[3]


def test_composers_that_are_compared_compose_the_same(peers, tmp_path):
    import compose

    compose.write(tmp_path, 2048)
    compose.check(compose.composers(), tmp_path)
    assert abs(compose.once(compose.OURS, tmp_path, 200)["bytes"] - 2048) < 100


def test_what_was_asked_of_composing_is_judged_by_medians(peers):
    import compose

    def runs(*microseconds):
        return [{"us": value} for value in microseconds]

    good = compose.goals("20 KB", {compose.OURS: runs(9, 10, 90), compose.EMAIL: runs(50, 200, 400)})
    assert [line.endswith("reached") for line in good] == [True, True]
    bad = compose.goals("20 KB", {compose.OURS: runs(9, 11, 12), compose.EMAIL: runs(50, 200, 400)})
    assert [line.endswith("MISSED") for line in bad] == [True, True]


def test_a_composer_that_leaves_something_out_ends_the_comparison(peers, tmp_path, monkeypatch):
    import compose

    compose.write(tmp_path, 2048)
    command = compose.command

    def without_the_list(name, folder, count, keep=None):
        if name == compose.EMAIL:
            job = json.loads((folder / "job.json").read_text())
            (folder / "job.json").write_text(json.dumps({**job, "html": "<p>{{ id }}</p>"}))
        return command(name, folder, count, keep)

    monkeypatch.setattr(compose, "command", without_the_list)
    with pytest.raises(SystemExit, match="recipient 0 gets another html than from bulkmail"):
        compose.check([compose.OURS, compose.EMAIL], tmp_path)


@pytest.mark.parametrize("algorithm", ["rsa2048", "ed25519"])
def test_signatures_are_counted_beside_those_of_openssl(peers, tmp_path, algorithm):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    import compose
    import sign

    compose.write(tmp_path, 2048)
    sign.write_key(algorithm, tmp_path / f"{algorithm}.pem")
    assert sign.openssl(algorithm, 1.0) > 0
    assert sign.ours(tmp_path, algorithm, 0.3) > 0


def test_the_long_line_takes_a_round_trip_for_every_reply(start_smtp_sink):
    server = start_smtp_sink()
    rtt = 0.06
    relay = subprocess.Popen(
        [sys.executable, PEERS / "delay.py", "--to", f"127.0.0.1:{server.port}", "--rtt-ms", str(rtt * 1000)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(relay.stdout.readline().split()[1])
        started = time.monotonic()
        client = smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert time.monotonic() - started > 1.9 * rtt
        started = time.monotonic()
        client.ehlo()
        client.noop()
        assert time.monotonic() - started > 1.9 * rtt
        assert client.quit()[0] == 221
    finally:
        relay.terminate()
        relay.wait(10)
        relay.stdout.close()


# ---- receiving servers side by side


@pytest.mark.parametrize("name", ["bulkmail sink", "smtp-sink", "aiosmtpd", "npm smtp-server"])
def test_every_receiver_takes_what_every_feeder_sends(peers, name, monkeypatch, tmp_path):
    import receivers
    from children import running
    from recorder import free_port, wait_for

    monkeypatch.setenv("PYTHONPATH", str(PEERS.parents[1]))
    if (why := receivers.unavailable(name)) or not receivers.find("smtp-source"):
        missing(why or "Postfix is not installed")
    port = free_port()
    receiver = receivers.RECEIVERS[name]
    with running(receivers.on_core(0, receiver.command(port)), log=tmp_path / "log") as child:
        wait_for(port)
        fed = [receivers.feed(child.pid, port, by, 60) for by in receiver.guess]
    assert len(fed) >= 2 and all(one.rate > 0 and one.cpu_us > 0 for one in fed)


def test_goals_of_receivers_are_judged_by_medians(peers):
    from receivers import NODE, OURS, PIPELINING, POSTFIX, SOURCE, Fed, goals

    def fed(*rates):
        return [Fed(rate, 1e6 / rate, 1.0) for rate in rates]

    lines = goals({
        (OURS, SOURCE): fed(100.0, 80.0, 1000.0), (POSTFIX, SOURCE): fed(100.0, 100.0, 100.0),
        (NODE, SOURCE): fed(30.0, 20.0, 26.0), (OURS, PIPELINING): fed(9.0), (POSTFIX, PIPELINING): fed(10.0),
    })  # fmt: skip
    assert "1.00, asked at least 0.8: reached (by round: 1.00, 0.80, 10.00;" in lines[0]
    assert "aiosmtpd" in lines[1] and "not measured (asked: at least 10)" in lines[1]
    assert "3.85, asked at least 4: MISSED" in lines[2] and lines[2].endswith("3.85)")
    assert "0.90, asked at least 1: MISSED" in lines[3]


# ---- the table of goals


def test_a_goal_is_the_median_of_the_rounds_own_ratios_and_what_is_lost_is_shown(peers):
    import goals
    from clients import AIOSMTPLIB, FLOOR, OURS, SMTP_SOURCE
    from results import Results

    results = Results(missing={AIOSMTPLIB: "aiosmtplib is not installed"})
    ours = [replace(run_of(OURS, 1000, cpu), round=number) for number, cpu in enumerate((2.0, 3.0, 4.0))]
    # The floor's run of round 1 failed: its neighbours are not paired with ours of another round.
    floor = [replace(run_of(FLOOR, 1000, cpu), round=number) for number, cpu in ((0, 1.0), (2, 4.0))]
    results.runs["2k-c20"] = {OURS: ours, FLOOR: floor, SMTP_SOURCE: []}
    results.missing[f"2k-c20 {SMTP_SOURCE}"] = "status 1, 0 of 1000"
    rows = {row.key: row for row in goals.judge_all(results)}
    sent = rows["send-2k-floor"]
    assert (sent.middle, sent.low, sent.high, sent.result) == (1.5, 1.0, 2.0, goals.REACHED)
    assert rows["send-2k-smtp-source"].result == "not measured: smtp-source: status 1, 0 of 1000"
    assert "aiosmtplib is not installed" in rows["send-2k-aiosmtplib"].result
    assert rows["dkim"].result == "not measured: sign is not part of this run"
    floor[1] = replace(floor[1], user=1.0)
    lost = goals.judge(next(one for one in goals.ASKED if one.key == "send-2k-floor"), results)
    assert lost.result == goals.MISSED and "3.00× | 2.00..4.00 |" in goals.table([lost])


def test_a_program_that_fails_ends_no_run_and_has_a_row_that_says_why(peers, monkeypatch):
    import goals
    import run
    import scenarios
    import starts
    from results import Figures

    def broken(harness, effort):
        raise SystemExit("smtp-sink ended:\nno such user")

    monkeypatch.setitem(run.APART, scenarios.RECEIVERS, broken)
    monkeypatch.setitem(
        run.APART, scenarios.STARTS, lambda harness, effort: ("table", {starts.IMPORT: Figures([30.0, 50.0, 31.0])})
    )
    with run.Harness() as harness:
        shown = run.run_all(harness, scenarios.EFFORTS["quick"], (scenarios.RECEIVERS, scenarios.STARTS), [])
    rows = {row.key: row for row in goals.judge_all(harness.results)}
    assert shown == ["table", "Note: sink is left out: no such user"]
    assert rows["sink"].result == "not measured: no such user"
    assert (rows["import"].middle, rows["import"].result) == (31.0, goals.REACHED)


def test_every_goal_is_part_of_a_normal_run(peers):
    import goals
    import scenarios
    from results import Results

    rows = goals.judge_all(Results(missing={name: f"[{name}]" for name in scenarios.KNOWN}))
    wanted = {row.result.removeprefix("not measured: [").removesuffix("]") for row in rows}
    assert wanted == set(scenarios.EFFORTS["normal"].scenarios) <= set(scenarios.EFFORTS["full"].scenarios)


def test_fast_clients_of_a_scenario_all_send_as_much(peers):
    import scenarios
    from clients import CLIENTS

    for effort in scenarios.EFFORTS.values():
        for scenario in filter(lambda one: one.whole, scenarios.SCENARIOS):
            fast = [one for one in CLIENTS if one.fast and scenario.takes(one)]
            assert len(fast) >= 2
            assert len({scenarios.amount(one, scenario, effort) for one in fast}) == 1, scenario.name


def test_readme_and_performance_page_show_every_goal_of_the_same_run(peers):
    import goals
    import headline
    import marks

    shown = [marks.between(path.read_text(), headline.NAME) for path in headline.FILES]
    assert shown[0] == shown[1]
    assert re.match(r"Run of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, \d rounds?, on .*\d cores", shown[0])
    assert "Python 3" in shown[0] and "bulkmail " in shown[0]
    lines = [line for line in shown[0].splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in line.split("|")[2:4]] for line in lines] == [
        [asked.what, asked.goal] for asked in goals.ASKED
    ]


def test_a_table_is_put_between_its_marks_and_nothing_else_is_changed(peers):
    import marks

    before, after = f"before\n\n{marks.begin('this')}\n", f"{marks.end('this')}\n\nafter\n"
    assert marks.put(f"{before}| old |\n{after}", "this", "| new |") == f"{before}| new |\n{after}"
    assert marks.put(before + after, "this", "| new |") == f"{before}| new |\n{after}"
    with pytest.raises(SystemExit, match="marks"):
        marks.put("a page without them", "this", "| new |")


def test_measured_programs_may_write_pyc_files(peers, monkeypatch):
    from children import measure

    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    cost = measure(
        [sys.executable, "-c", "import sys; print('{\"messages\": %d}' % sys.dont_write_bytecode)"], seconds=60
    )
    assert cost.result() == {"messages": 0}


def test_starting_is_measured_beside_python_alone(peers):
    import starts

    text, figures = starts.compare(2)
    assert "Python alone" in text and set(figures) == {starts.IMPORT, starts.HELP}
    assert all(len(one.values) == 2 and min(one.values) > 0 for one in figures.values())


# ---- the budget of a message

CALLGRIND = """\
version: 1
events: Ir

ob=(1) /x/bulkmail/wire/reply.cpython-311-x86_64-linux-gnu.so
fl=(1) ???
fn=(1) feed
0 100
cob=(2) /lib/libc.so.6
cfn=(2) memchr
calls=3 0
0 30
fn=(3) main
0 5
cfn=(1)
calls=2 0
* 130

ob=(2)
fn=(2)
+3 40
cfn=(4) helper
calls=1 0
0 8

fn=(4)
0 8
ob=(1)
fn=(5) other
0 7
cob=(2)
cfn=(2)
calls=1 0
0 10
"""


def test_what_callgrind_counts_belongs_to_the_stage_that_called_it(peers):
    from callgrind import attribute, parse

    profile = parse(CALLGRIND.splitlines(keepends=True))
    ours, libc = "/x/bulkmail/wire/reply.cpython-311-x86_64-linux-gnu.so", "/lib/libc.so.6"
    assert profile.itself == {
        (ours, "feed"): 100, (libc, "memchr"): 40, (libc, "helper"): 8, (ours, "main"): 5, (ours, "other"): 7
    }  # fmt: skip
    assert profile.calls[(ours, "feed"), (libc, "memchr")] == 30
    found = attribute(profile, {(ours, "feed"): "reply", (ours, "other"): "claim"}, rest="unclear")
    # memchr, and what it calls, was called by both, three parts to one; nobody answers for main
    assert {stage: round(cost, 6) for stage, cost in found.items()} == {"reply": 136, "claim": 19, "unclear": 5}
    assert sum(found.values()) == sum(profile.itself.values())
    assert profile.minus(profile).itself == {}


def test_each_module_of_a_send_has_its_stage(peers):
    import budget

    def stage(path, name):
        return budget.stage_of((path, name))

    ours = "/x/bulkmail/{}.cpython-311-x86_64-linux-gnu.so"
    assert stage(ours.format("job/rows"), "__pyx_f_8bulkmail_3job_4rows_9RowParser_json_row") == "recipient row"
    assert stage(ours.format("job/settle"), "__pyx_pw_8bulkmail_3job_6settle_4Work_3claim") == "claim"
    assert stage(ours.format("smtp/session"), "__pyx_f_8bulkmail_4smtp_7session_7Session__flush") == "write"
    assert stage(ours.format("smtp/session"), "__pyx_f_8bulkmail_4smtp_7session_7Session__received") == "reply"
    assert stage(ours.format("message/compiled"), "__pyx_f_8bulkmail_7message_8compiled_8Composer_put") == "compose"
    assert stage("/usr/lib/x86_64-linux-gnu/libsqlite3.so.0.8.6", "sqlite3VdbeExec") == "journal"
    assert stage("/opt/lib/libpython3.11.so.1.0", "_PyEval_EvalFrameDefault'2") == budget.GLUE
    assert stage("/lib/x86_64-linux-gnu/libc.so.6", "malloc") is None


def test_samples_are_told_by_the_system_call_they_were_in(peers):
    import budget

    shown = (
        "python\n\tffffffff81000001 tcp_sendmsg\n\tffffffff81000002 __x64_sys_sendmsg\n\t 7f0012 [unknown]\n\n"
        "python\n\tffffffff81000003 exc_page_fault\n\t 7f0012 main\n\n"
        "python\n\t    7f5b9ac708a8 _PyEval_EvalFrameDefault\n\t   0 [unknown]\n\n"
    )
    assert [budget.where(stack) for stack in budget.samples(shown)] == ["sendmsg", "other", ""]


def test_without_postfix_the_table_is_there_and_says_so(peers, monkeypatch):
    import clients
    import goals
    import recorder
    import run
    import scenarios

    def absent(*arguments):
        raise SystemExit("smtp-sink (Debian: postfix) is missing")

    monkeypatch.setattr(recorder, "sink_command", absent)
    some = [one for one in clients.CLIENTS if one.name in (clients.OURS, clients.LIBRARY)]
    with run.Harness() as harness:
        shown = run.run_all(harness, scenarios.EFFORTS["quick"], ("2k-c20",), some)
    rows = {row.key: row for row in goals.judge_all(harness.results)}
    assert all("is missing" in rows[key].result for key in ("send-2k-floor", "send-many-2k")), rows
    assert "Note: 2k-c20 is left out: none of its clients can run here" in shown
