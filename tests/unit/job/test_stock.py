"""What is in hand of many routes: what it costs to ask, and that the answer is enough."""

from __future__ import annotations

import pytest

from bulkmail.job import stock
from bulkmail.job.settle import Work
from bulkmail.job.stock import COMMIT_RECIPIENTS, Stock, Stocks
from bulkmail.pool.pool import OPENING_AT_ONCE
from unit.job.simulation import filled_by_route

LANE = "lane"


def in_hand(routes: int, each: int, size: int = 1) -> Stocks:
    """Stocks that one lane may carry, of which `each` recipients are leased and not claimed."""
    ledger = filled_by_route({f"d{number}.test": each for number in range(routes)})
    stocks = Stocks(Stock(route, size) for route in ledger.routes())
    stocks.open([LANE], lambda stock, lane: True)
    for one in stocks:
        for chunk in ledger.lease(1, 0.0, [one.route]):
            stocks.add(one, Work(chunk))
    return stocks


def test_the_backlog_of_hundreds_of_routes_is_not_counted_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stocks, asked = in_hand(routes=300, each=100), []
    waiting = stock.Stock.waiting
    monkeypatch.setattr(stock.Stock, "waiting", lambda self: asked.append(self) or waiting(self))
    assert stocks.backlog(LANE) >= 2 * COMMIT_RECIPIENTS
    assert len(asked) <= 11


def test_less_than_enough_is_counted_exactly() -> None:
    assert in_hand(routes=7, each=100).backlog(LANE) == 700


def test_the_backlog_of_a_shared_message_is_enough_for_all_connections_that_are_opened_at_a_time() -> None:
    assert in_hand(routes=60, each=100, size=100).backlog(LANE) >= OPENING_AT_ONCE * 100
