"""What waits to be sent, by route: order, turns, and that nothing is lost in it."""

from __future__ import annotations

from bulkmail.pool.domains import Pins
from bulkmail.pool.outbox import Outbox
from bulkmail.wire.transaction import Transaction

PINS = Pins({"gmail.com": ("a",), "*.example.com": ("a", "b")})


def tx(number, domain="other.test"):
    return Transaction(b"news@x.test", [f"u@{domain}".encode()], b".\r\n", 0, number)


def filled(*domains, pins=PINS):
    outbox = Outbox(pins)
    for number, domain in enumerate(domains):
        outbox.add(tx(number, domain))
    return outbox


def tags(queues):
    return [[one.tag for one in queue] for queue in queues]


MIXED = ("other.test", "gmail.com", "x.example.com", "gmail.com", "other.test")


def test_recipients_of_several_routes_are_told_apart():
    outbox = Outbox(PINS)
    assert outbox.routes([b"a@gmail.com", b"b@y.test", b"c@GMAIL.com", b"d@a.example.com"]) == [[0, 2], [1], [3]]
    assert outbox.routes([b"a@gmail.com", b"b@gmail.com."]) is None
    assert outbox.routes([b"a@y.test", b"b@z.test"]) is None
    assert Outbox(Pins({})).routes([b"a@gmail.com", b"b@y.test"]) is None


def test_each_egress_sees_what_it_may_carry_oldest_first():
    outbox = filled(*MIXED)
    assert len(outbox) == 5
    assert tags(outbox.open_to("a")) == [[0, 4], [1, 3], [2]]
    assert tags(outbox.open_to("b")) == [[0, 4], [2]]
    assert tags(outbox.open_to(None)) == [[0, 4]]


def test_looking_is_no_turn():
    outbox = filled(*MIXED)
    assert tags(outbox.open_to("a")) == tags(outbox.open_to("a"))


def test_routes_have_turns():
    outbox = filled(*MIXED)
    firsts = [outbox.turn("a")[0][0].tag for _ in range(6)]
    assert firsts == [0, 1, 2, 0, 1, 2]


def test_one_route_has_every_turn():
    outbox = filled("other.test", "other.test")
    assert tags(outbox.turn("a")) == tags(outbox.turn("a")) == [[0, 1]]


def test_what_is_put_back_is_first_again_and_in_order():
    outbox = filled(*MIXED)
    outbox.put_back([tx(10, "gmail.com"), tx(11), tx(12, "gmail.com")])
    assert tags(outbox.open_to("a")) == [[11, 0, 4], [10, 12, 1, 3], [2]]


def test_what_is_dropped_is_gone_from_every_route():
    outbox = filled(*MIXED)
    assert outbox.drop(lambda one: one.tag in (0, 3)) == 2
    assert tags(outbox.open_to("a")) == [[4], [1], [2]] and len(outbox) == 3
    assert outbox.drop(lambda one: False) == 0


def test_emptied_of_everything_also_of_what_comes_meanwhile():
    outbox, got = filled(*MIXED), []
    for one in outbox.empty():
        got.append(one.tag)
        if one.tag == 2:
            outbox.add(tx(20, "gmail.com"))
            outbox.add(tx(21, "new.example.com"))
    assert sorted(got) == [0, 1, 2, 3, 4, 20, 21] and len(outbox) == 0


def test_emptied_of_one_route():
    outbox = filled(*MIXED)
    assert [one.tag for one in outbox.empty("gmail.com")] == [1, 3]
    assert tags(outbox.open_to("a")) == [[0, 4], [2]]


def test_what_none_of_some_egresses_may_carry():
    outbox = filled(*MIXED)
    assert outbox.stranded(["a"]) == []
    assert outbox.stranded(["b"]) == ["gmail.com"]
    assert outbox.stranded([]) == ["*", "gmail.com", "*.example.com"]
    list(outbox.empty("gmail.com"))
    assert outbox.stranded(["b"]) == []
