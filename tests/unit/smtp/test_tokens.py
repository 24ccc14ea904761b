"""Where tokens come from, and that they are fetched once for everybody who waits."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress

import pytest

from bulkmail.errors import AuthError
from bulkmail.smtp.auth.token_command import MAX_OUTPUT, TokenCommand
from bulkmail.smtp.auth.tokens import MARGIN_SECONDS, MAX_TOKEN, Fixed, Function, TokenSource, token_source
from bulkmail.url import Options, parse_options

KEY = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0LXNlY3JldC1zZWNyZXQ.abcdef"  # looks like a token: no error may show it


class Origin:
    """Gives t1, t2... each good for `good_for` seconds; `hold`: an event to wait for first."""

    name, renewable, caches = "the origin", True, False

    def __init__(self, good_for=None, hold=None, fails=0):
        self.good_for, self.hold, self.fails = good_for, hold, fails
        self.calls, self.ended = [], 0

    async def fetch(self, renew):
        self.calls.append(renew)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if len(self.calls) <= self.fails:
                raise AuthError("no token today", permanent=False)
            return f"t{len(self.calls)}", self.good_for
        finally:
            self.ended += 1


def test_one_fetch_for_everybody(run):
    async def main():
        origin = Origin(hold=asyncio.Event())
        source = TokenSource(origin)
        waiting = [asyncio.ensure_future(source.get()) for _ in range(20)]
        await asyncio.sleep(0)
        origin.hold.set()
        found = await asyncio.gather(*waiting)
        later = await source.get()
        return {token.value for token in [*found, later]}, origin.calls

    assert run(main()) == ({"t1"}, [False])


def test_who_stops_waiting_does_not_end_it_for_the_others(run):
    async def main():
        origin = Origin(hold=asyncio.Event())
        source = TokenSource(origin)
        first, second = asyncio.ensure_future(source.get()), asyncio.ensure_future(source.get())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        origin.hold.set()
        return first.cancelled(), (await second).value, origin.calls

    assert run(main()) == (True, "t1", [False])


def test_when_nobody_waits_any_more_it_ends_and_the_next_one_begins_anew(run):
    async def main():
        origin = Origin(hold=asyncio.Event())
        source = TokenSource(origin)
        with suppress(TimeoutError):
            await asyncio.wait_for(source.get(), 0.01)
        await asyncio.sleep(0)
        ended = origin.ended
        origin.hold.set()
        return ended, (await source.get()).value

    assert run(main()) == (1, "t2")


def test_a_failure_reaches_all_who_wait_and_is_not_remembered(run):
    async def main():
        origin = Origin(fails=1)
        source = TokenSource(origin)
        failed = await asyncio.gather(source.get(), source.get(), return_exceptions=True)
        return [str(error) for error in failed], (await source.get()).value

    assert run(main()) == (["no token today"] * 2, "t2")


@pytest.mark.parametrize(
    ("good_for", "after", "fetches"),
    [
        (3600.0, 3600.0 - MARGIN_SECONDS - 1, 1),
        (3600.0, 3600.0 - MARGIN_SECONDS, 2),
        (10.0, 4.9, 1),
        (10.0, 5.0, 2),
        (None, 1e9, 1),
    ],
)
def test_a_token_is_renewed_a_while_before_it_expires(run, good_for, after, fetches):
    async def main():
        now = 1000.0
        origin = Origin(good_for)
        source = TokenSource(origin, clock=lambda: now)
        await source.get()
        now += after
        return (await source.get()).value

    assert run(main()) == f"t{fetches}"


def test_a_token_that_was_accepted_and_is_refused_is_renewed_once(run):
    async def main():
        origin = Origin()
        source = TokenSource(origin)
        old = await source.get()
        source.accepted(old)
        verdicts = [source.refused(old), source.refused(old)]  # two connections had it
        new = await source.get()
        verdicts.append(source.refused(new))  # the renewed one is refused as well
        verdicts.append(source.refused(old))  # and a third connection comes late
        return verdicts, origin.calls

    assert run(main()) == ([True, True, False, False], [False, True])


def test_a_token_that_was_just_made_and_is_refused_is_not_a_matter_of_time(run):
    async def main():
        source = TokenSource(Origin())
        return source.refused(await source.get())

    assert run(main()) is False


def test_a_fixed_token_is_not_renewed(run):
    async def main():
        source = TokenSource(Fixed("abc"))
        token = await source.get()
        source.accepted(token)
        return token.value, source.refused(token)

    assert run(main()) == ("abc", False)


def test_one_that_never_comes_has_a_deadline(run):
    async def main():
        source = TokenSource(Origin(hold=asyncio.Event()), seconds=0.01)
        with pytest.raises(AuthError, match=r"no token within 0\.01 s") as caught:
            await source.get()
        return caught.value.permanent

    assert run(main()) is False


@pytest.mark.parametrize("value", ["", "a b", "a\r\nNOOP", "a\1b", "é", "x" * (MAX_TOKEN + 1)])
def test_what_is_no_token_is_refused_and_not_shown(run, value):
    async def main():
        with pytest.raises(AuthError) as caught:
            await TokenSource(Fixed(value)).get()
        return str(caught.value)

    assert run(main()) == "what option 'token' gave is not an access token"


# ---- a function


async def _async():
    return "from-async"


async def _renewing(renew):
    return f"renew-{renew}"


class _Callable:
    def __call__(self):
        return "from-object"


@pytest.mark.parametrize(
    ("function", "token"),
    [
        (lambda: "from-sync", "from-sync"),
        (_async, "from-async"),
        (lambda: _async(), "from-async"),
        (_renewing, "renew-False"),
        (_Callable(), "from-object"),
    ],
)
def test_functions_of_every_kind(run, function, token):
    async def main():
        return (await token_source(token=function).get()).value

    assert run(main()) == token


def test_a_function_is_told_that_its_token_was_refused(run):
    async def main():
        source = TokenSource(Function(_renewing))
        worth = source.refused(await source.get())
        return worth, (await source.get()).value

    assert run(main()) == (True, "renew-True")


def test_a_function_that_blocks_does_not_block_the_loop(run):
    async def main():
        turns = asyncio.Event()
        loop = asyncio.get_running_loop()

        def blocking():
            done = asyncio.run_coroutine_threadsafe(turns.wait(), loop)
            done.result(5)  # the loop has to run meanwhile
            return "t"

        loop.call_later(0.01, turns.set)
        return (await TokenSource(Function(blocking)).get()).value

    assert run(main()) == "t"


def _fails():
    raise RuntimeError(f"cannot with {KEY}")


@pytest.mark.parametrize(("function", "words"), [(_fails, "failed: RuntimeError"), (lambda: 5, "returned int")])
def test_a_function_that_fails(run, function, words):
    async def main():
        with pytest.raises(AuthError, match=words) as caught:
            await TokenSource(Function(function)).get()
        return str(caught.value)

    assert KEY not in run(main())


# ---- a program


def command(script):
    return TokenCommand([sys.executable, "-c", script])


def fetch(run, script, **options):
    async def main():
        return (await TokenSource(command(script), **options).get()).value

    return run(main())


def failure(run, script, **options):
    with pytest.raises(AuthError) as caught:
        fetch(run, script, **options)
    assert KEY not in str(caught.value) and str(caught.value).isprintable()
    return caught.value


def test_what_a_program_prints_is_the_token(run):
    assert fetch(run, f"print({KEY!r})") == KEY


def test_no_shell_is_involved(run):
    async def main():
        argv = parse_options({"token_command": ["echo", "$HOME;true>x"]})["token_command"]
        return (await TokenSource(TokenCommand(argv)).get()).value

    assert run(main()) == "$HOME;true>x"


def test_a_string_is_split_as_a_shell_would():
    assert parse_options({"token_command": "get-token --user 'a b' c\\ d"})["token_command"] == (
        "get-token", "--user", "a b", "c d",
    )  # fmt: skip


def test_a_program_that_fails_is_told_of_with_its_last_words(run):
    error = failure(run, f"import sys; print({KEY!r}); print('no luck\\x1b[2J', {KEY!r}, file=sys.stderr); sys.exit(3)")
    assert "exit status 3" in str(error) and "no luck" in str(error) and error.permanent is False


def test_a_program_that_a_signal_ends(run):
    assert "ended by signal 9" in str(failure(run, "import os; os.kill(os.getpid(), 9)"))


def test_a_program_that_complains_for_ever_is_cut_short(run):
    error = failure(run, "import sys; sys.stderr.write('word ' * 100000); sys.exit(1)")
    assert "exit status 1" in str(error) and len(str(error)) < 500


def test_a_program_that_prints_nothing(run):
    assert "printed nothing" in str(failure(run, "pass"))


def test_a_program_that_prints_more_than_a_token(run):
    assert "more than one word" in str(failure(run, f"print({KEY!r}); print('hello')"))


def test_a_program_that_never_stops_printing_is_ended(run):
    error = failure(run, "import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert f"more than {MAX_OUTPUT} bytes" in str(error) and error.permanent


def test_a_program_that_prints_no_ascii(run):
    assert "not an access token" in str(failure(run, "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')"))


@pytest.mark.parametrize("argv", [["/no/such/program", KEY], ["/etc/passwd"], ["/tmp"], ["echo", "\ud800"]])
def test_a_program_that_cannot_be_run(run, argv):
    async def main():
        with pytest.raises(AuthError, match="cannot be run") as caught:
            await TokenSource(TokenCommand(argv)).get()
        return caught.value

    error = run(main())
    assert error.permanent and KEY not in str(error)


def gone(pid):
    """Whether a process has ended; one that waits to be looked at by its parent has."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_program_that_hangs_is_ended_with_its_children(run, tmp_path, how):
    """The child keeps the output open: without its end, nobody would ever see the end of the output."""
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.new', {str(pids)!r})\n"
        "time.sleep(600)"
    )

    async def main():
        getting = asyncio.ensure_future(TokenSource(command(script), seconds=600 if how == "cancelled" else 3).get())
        while not pids.exists():
            await asyncio.sleep(0.01)
        if how == "cancelled":
            getting.cancel()
        with pytest.raises(AuthError if how == "deadline" else asyncio.CancelledError):
            await getting
        return [int(pid) for pid in pids.read_text().split()]

    assert all(gone(pid) for pid in run(main()))


# ---- which source, and what may be seen of it


def test_the_options_say_which(run):
    assert token_source(Options()) is None
    shown = [
        repr(token_source(Options(**parse_options(options))))
        for options in (
            {"token": KEY},
            {"token": lambda: KEY},
            {"token_command": ["gettoken", KEY]},
            {"oauth2": {"client_id": "c", "refresh_token": KEY, "token_url": "https://o.example/t"}},
        )
    ]
    assert shown == [
        "TokenSource(option 'token')",
        "TokenSource(the function given as 'token')",
        "TokenSource(token_command gettoken)",
        "TokenSource(the token endpoint o.example)",
    ]
