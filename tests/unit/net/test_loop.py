"""The loop everything runs on."""

from __future__ import annotations

import asyncio
import sys

import pytest

from bulkmail.net.loop import new_event_loop, run


async def kind():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_uvloop_is_used_where_it_is_installed():
    pytest.importorskip("uvloop")
    assert run(kind()) == "uvloop"


def test_without_uvloop_it_is_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(kind()) == "asyncio"
    loop = new_event_loop()
    loop.close()
    assert isinstance(loop, asyncio.AbstractEventLoop)


def test_the_loop_is_closed_whatever_happens():
    async def fail():
        raise KeyError(asyncio.get_running_loop())

    with pytest.raises(KeyError) as caught:
        run(fail())
    assert caught.value.args[0].is_closed()


@pytest.mark.filterwarnings("error")
def test_within_a_running_loop_it_says_what_to_do_instead():
    async def outer():
        with pytest.raises(RuntimeError, match="await the async form"):
            run(kind())

    run(outer())
