"""docs/sink-faults.md: every row of its tables is tried on a server, or on the rules."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Server
from bulkmail.sink.faults import PHASES as KNOWN
from bulkmail.sink.faults import Faults
from unit.sink.fault_talk import PHASES, Raw

Run = Callable[[Any], Any]
PAGE = (Path(__file__).parents[3] / "docs" / "sink-faults.md").read_text("utf-8")


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the first table whose head begins with `heading`."""
    lines = iter(PAGE[PAGE.index(f"\n| {heading} |") + 1 :].splitlines()[2:])
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def code(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    assert found
    return found[1]


EXAMPLES = [(code(row[2]), row[3]) for heading in ("phase | is", "action") for row in rows(heading)]
WHENS = [(code(row[2]), row[3]) for row in rows("when")]
ADDRESSES = [(code(row[0]), code(row[2]), code(row[3]), code(row[4])) for row in rows("phase | the address")]


def test_every_phase_and_every_action_has_its_row() -> None:
    assert [code(row[0]) for row in rows("phase | is")] == list(KNOWN)
    assert len(EXAMPLES) == len(KNOWN) + 6
    assert len(WHENS) == 4
    assert {phase for phase, *_ in ADDRESSES} == {"mail", "rcpt", "data", "body", "auth"}


@pytest.mark.parametrize(("rule", "heard"), EXAMPLES)
def test_the_client_hears_what_the_page_says(run: Run, certificates: Any, rule: str, heard: str) -> None:
    phase = rule.partition(":")[0]

    async def main() -> None:
        options = {"fault": [rule], "auth": "ann:right", "tls_cert": certificates.chain_file}
        async with Server(**options) as server, Raw(server) as client:
            if heard == "reset":
                with pytest.raises(ConnectionResetError):
                    await client.reach(phase)
                    await client.all()
                return
            before = asyncio.get_running_loop().time()
            await client.reach(phase)
            if heard == "closed":
                assert await client.all() == b""
            elif heard == "nothing":
                client.writer.write_eof()
                assert await client.all() == b""
            elif heard == "the usual, later":
                assert (await client.reply()).startswith(PHASES[phase][2])
                assert asyncio.get_running_loop().time() - before > 0.08
            else:
                assert await client.reply() == code(heard)
                assert heard in (f"`{code(heard)}`", f"`{code(heard)}`, closed")
                if heard.endswith("closed"):
                    assert await client.all() == b""

    run(main())


@pytest.mark.parametrize(("rule", "numbers"), WHENS)
def test_the_events_that_the_page_says_are_struck(rule: str, numbers: str) -> None:
    faults = Faults([rule])
    struck = [number for number in range(1, 1001) if faults.strike("rcpt", ("a@b",))]
    assert ", ".join(map(str, struck[:5])) + " …" == numbers


@pytest.mark.parametrize(("phase", "rule", "struck", "spared"), ADDRESSES)
def test_the_addresses_that_the_page_says_are_struck(phase: str, rule: str, struck: str, spared: str) -> None:
    faults = Faults([rule])
    assert faults.strike(phase, (spared,)) is None
    assert faults.strike(phase, (struck,)) is not None


def test_the_command_and_the_python_of_the_page_are_understood() -> None:
    found = re.findall(r'--fault "([^"]+)"', PAGE)
    assert len(found) == 2
    Faults(found)
    server = Server()
    block = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert block
    exec(block[1], {"server": server})
    assert server.faults.any
