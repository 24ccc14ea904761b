"""Suppression lists: whoever one names gets nothing, whatever its form; a line that names nobody is refused."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.compressed import zstd_module
from bulkmail.job.suppress_lines import LineTaker
from bulkmail.job.suppression import DUPLICATE, RecipientFilter

zstd = zstd_module()


def verdicts(found: RecipientFilter, *addresses: str) -> list[str | None]:
    return [found.filter(address) for address in addresses]


def listed(tmp_path: Path, text: str | bytes, name: str = "gone.txt") -> RecipientFilter:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return RecipientFilter(suppress=[path])


def test_listed_addresses_and_domains_are_left_out(tmp_path: Path) -> None:
    found = listed(tmp_path, "\ufeffemail\r\nAnn@x.org\n\n# left in May\n@all.example\r\nbücher.example\n")
    assert found.filter("ann@X.org") == "suppressed: listed in gone.txt"
    out = ("a@ALL.example", "b@xn--bcher-kva.example")
    assert None not in verdicts(found, *out)
    kept = ("bob@x.org", "a@sub.all.example", "a@example", "ann@x.org.example", '"ann@x.org"@y.org')
    assert verdicts(found, *kept) == [None] * len(kept)
    assert found.filter_all(["bob@x.org", "ann@x.org"]) == [(1, "suppressed: listed in gone.txt")]


def test_a_star_lists_the_domains_below(tmp_path: Path) -> None:
    found = listed(tmp_path, "*.Example.com\n*.b\u00fccher.example\nexample.net\n")
    assert None not in verdicts(
        found, "a@x.example.com", "a@x.y.EXAMPLE.com", "a@s.xn--bcher-kva.example", "a@example.net"
    )
    kept = ("a@example.com", "a@myexample.com", "a@example.com.org", "a@xn--bcher-kva.example", "a@x.example.net")
    assert verdicts(found, *kept) == [None] * len(kept)


def test_hashes_of_addresses_are_known_among_other_lines(tmp_path: Path) -> None:
    lines = [
        hashlib.sha256(b"ann@x.org").hexdigest(),
        hashlib.md5(b"bob@x.org").hexdigest().upper(),
        hashlib.sha1("\u00e4@x.org".encode()).hexdigest(),
        "carl@x.org",
        "all.example",
    ]
    found = listed(tmp_path, "\r\n".join(lines))
    out = ("Ann@X.org", "bob@x.org", "\u00c4@x.org", "Carl@x.org", "dora@all.example")
    assert verdicts(found, *out) == ["suppressed: listed in gone.txt"] * 5
    kept = ("dora@x.org", "nn@x.org", lines[0][:30] + "@x.org")
    assert verdicts(found, *kept) == [None] * 3
    assert verdicts(listed(tmp_path, lines[0]), "bob@x.org", "ann@x.org") == [None, "suppressed: listed in gone.txt"]


@pytest.mark.parametrize("header", ["email", "MD5", "sha256", "# from the exchange\n#\nmd5"])
def test_a_header_of_one_column_is_passed_over(tmp_path: Path, header: str) -> None:
    found = listed(tmp_path, f"{header}\n{hashlib.md5(b'a@x.org').hexdigest()}\n")
    assert verdicts(found, "a@x.org") == ["suppressed: listed in gone.txt"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_by_its_column_email(tmp_path: Path, end: str) -> None:
    rows = [
        "\ufeffname;Email;why",
        "Ann;a@x.org;left",
        '"Bob; B.";" b@x.org";"two',
        'lines"',
        ";;",
        "",
        ";all.example;x",
    ]
    found = listed(tmp_path, end.join(rows))
    assert [verdict is not None for verdict in verdicts(found, "a@x.org", "b@x.org", "c@all.example")] == [True] * 3
    assert verdicts(found, "ann@y.org") == [None]


@pytest.mark.parametrize("packed", [gzip.compress, zstd.compress])
def test_a_compressed_list_is_read_as_it_is(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    found = listed(tmp_path, packed(b"".join(b"r%d@x.org\n" % i for i in range(200_000))), "gone.txt.x")
    assert verdicts(found, "r0@x.org", "r199999@x.org", "r200000@x.org")[::2] == [
        "suppressed: listed in gone.txt.x",
        None,
    ]
    assert sum(found.filter(f"r{i}@x.org") is not None for i in range(0, 200_000, 50)) == 4000


def test_a_cut_off_list_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.txt is cut off") as refused:
        listed(tmp_path, gzip.compress(b"a@x.org\n")[:-3])
    assert refused.value.path == "$.recipients.suppress[0]"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_are_the_same_however_they_are_cut_into_blocks(end: bytes) -> None:
    data = end.join([b"a@x.org", b"", b" b@x.org\t", b"# why", b"x.org", b"c@x.org"])
    for cut in range(1, len(data) + 1):
        taker, odd, rest = LineTaker(), list[tuple[int, bytes]](), b""
        for start in range(0, len(data), cut):
            held = rest + data[start : start + cut]
            rest = held[taker.take(held, 0, start + cut >= len(data), odd) :]
        assert rest == b"" and taker.line == 6 and odd == [(4, b"# why"), (5, b"x.org")]
        assert taker.addresses.places_of(["a@x.org", "b@x.org", "d@x.org", "c@x.org"]) == [0, 1, 3]


def test_lists_come_before_duplicates(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a@x.org\n")
    (tmp_path / "b.txt").write_text("a@x.org\nx.net\n")
    found = RecipientFilter(deduplicate=True, suppress=[tmp_path / "a.txt", tmp_path / "b.txt"])
    assert found.filter_all(["c@x.org", "a@x.org", "d@x.net", "C@x.org", "d@x.net"]) == [
        (1, "suppressed: listed in a.txt"),
        (2, "suppressed: listed in b.txt"),
        (3, DUPLICATE),
        (4, "suppressed: listed in b.txt"),
    ]


def test_a_suppressed_address_is_named_so_each_time(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text("a@x.org")
    found = RecipientFilter(deduplicate=True, suppress=[path])
    assert verdicts(found, "a@x.org", "a@x.org", "b@x.org", "b@x.org")[1:] == [
        "suppressed: listed in gone.txt",
        None,
        DUPLICATE,
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a@x.org\nann at x.org\n", "line 2: 'ann at x.org' is neither an address, a domain nor a hash"),
        ("a@x.org,2024-05-01\n", "line 1"),
        ("a@x.org\n*.\n", "line 2: '*.' is neither"),
        ("*.@x.org\n", "line 1"),
        ("0123456789abcdef0123456789abcde\n", "line 1"),
        ("0123456789abcdef0123456789abcdeg\n", "line 1"),
        ("email,name\na@x.org,Ann\nann at x.org,Ann\n", "line 3: 'ann at x.org' is neither"),
        ("name,email\nAnn,a@x.org\nBob\n", "line 3: 'Bob' is neither"),
        ('email,name\na@x.org,"Ann"x\n', "line 2"),
        ("email,name\n" + "x" * 9000, "line 2"),
        (b"email,name\na@x.org,\xff\n", "not valid UTF-8 in line 2"),
        ("nonsense\n", "line 1"),
        ("x" * 9000, "line 1"),
        (b"a@x.org\n\xff@x.org\n", "not valid UTF-8"),
    ],
)
def test_a_line_that_suppresses_nobody_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ManifestError) as refused:
        listed(tmp_path, text)
    assert words in str(refused.value) and "gone.txt" in str(refused.value)
    assert refused.value.path == "$.recipients.suppress[0]"


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot read the suppression file"):
        RecipientFilter(suppress=[tmp_path / "none.txt"])
