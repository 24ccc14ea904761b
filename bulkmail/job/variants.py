"""A message in several variants: which of them a recipient gets, and composing each group with its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bulkmail.errors import ConfigError, ManifestError, MessageError
from bulkmail.job.seeds import FIRST_NUMBER, is_seed, seed_of
from bulkmail.job.shares import Shares
from bulkmail.job.specs import VariantSpec
from bulkmail.message.compiled import Compiled, make_message_id
from bulkmail.urlparts import listed, quoted

if TYPE_CHECKING:
    from bulkmail.job.manifest import Manifest
    from bulkmail.message.reference import RenderedMessage
    from bulkmail.message.spec import MessageSpec
    from bulkmail.wire.transaction import Body

NAME: Final = "variant"  # what templates call it: that of the recipient, whatever their row says

Row = dict[str, Any]


class Assignment:
    """Which variant a recipient gets: by a hash of job and address, in proportion to the weights.

    So it is the same on resume and on every machine, however the list is sorted. Of seeds the number says it.
    """

    def __init__(self, job: str, weights: Sequence[float]) -> None:
        """weights: above 0, one for each variant."""
        sums = list(accumulate(map(Fraction, weights)))
        self._shares = Shares("variants", job, [int(part / sums[-1] * 2**64) for part in sums[:-1]])

    def of(self, number: int, address: str) -> int:
        return seed_of(number)[1] if is_seed(number) else self._shares.of(address)

    def of_rows(self, rows: list[Row], numbers: Sequence[int]) -> Sequence[int]:
        if numbers and max(numbers) >= FIRST_NUMBER:
            return [self.of(number, row["email"]) for number, row in zip(numbers, rows, strict=True)]
        return self._shares.of_all([row["email"] for row in rows])


class Variants:
    """A `Compiled` for each variant, used as one: what it asks of rows is what any of them does.

    shared   all of them are; `split` says who gets which
    signer   that of all: variants differ in what is sent, not in who signs it
    """

    def __init__(self, job: str, specs: Sequence[VariantSpec], each: Sequence[Compiled]) -> None:
        self.specs, self.each = tuple(specs), tuple(each)
        self.assignment = Assignment(job, [spec.weight for spec in specs])
        self.shared = all(one.shared for one in each)
        self.eight_bit = any(one.eight_bit for one in each)
        self.signer = each[0].signer
        self.fields = frozenset[str]().union(*(one.fields for one in each))
        self.header_fields = frozenset[str]().union(*(one.header_fields for one in each)) - {NAME}
        self.names = frozenset[str]().union(*(one.names for one in each)) - {NAME}
        self.places = _places(each)
        self._says = [spec.name if NAME in one.names else None for spec, one in zip(specs, each, strict=True)]

    def __len__(self) -> int:
        return len(self.each)

    def split(self, rows: list[Row], numbers: Sequence[int]) -> Iterator[tuple[Compiled, list[int]]]:
        """Each variant that somebody gets, and the indexes of these rows; they know its name then."""
        groups: list[list[int]] = [[] for _ in self.each]
        for index, which in enumerate(self.assignment.of_rows(rows, numbers)):
            groups[which].append(index)
        for one, name, mine in zip(self.each, self._says, groups, strict=True):
            if name is not None:
                for index in mine:
                    rows[index][NAME] = name
            if mine:
                yield one, mine

    def compose(
        self, rows: list[Row], numbers: list[int], date: bytes
    ) -> list[tuple[bytes, bytes, Body] | MessageError]:
        """As Compiled.compose, in the order of the rows."""
        out: list[Any] = [None] * len(rows)
        for one, mine in self.split(rows, numbers):
            made = one.compose([rows[i] for i in mine], [numbers[i] for i in mine], date)
            for index, item in zip(mine, made, strict=True):
                out[index] = item
        return out

    def of(self, number: int, address: str) -> str:
        """The name of a recipient's variant."""
        return self.specs[self.assignment.of(number, address)].name

    def copy_of(self, name: str, row: Row, number: int, date: bytes) -> tuple[bytes, Body]:
        """As signed_copy, of the variant of this name, whoever would get it. raises  ConfigError  if there is none"""
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise ConfigError(f"there is no variant {quoted(name)}, expected {listed(map(quoted, names))}")
        return self.each[names.index(name)].signed_copy({**row, NAME: name}, number, date)

    def signed(self, body: Body) -> Body:
        return self.each[0].signed(body)

    def signed_copy(self, row: Row, number: int, date: bytes) -> tuple[bytes, Body]:
        ((one, _),) = self.split([row], [number])
        return one.signed_copy(row, number, date)

    def render(self, row: Row, number: int, date: bytes) -> RenderedMessage:
        ((one, _),) = self.split([row], [number])
        return one.render(row, number, date)

    def message_id(self, number: int, address: str) -> str:
        return self.each[self.assignment.of(number, address)].message_id(number, address)

    def remembered(self) -> list[dict[str, Any]]:
        """What a journal keeps, so that a report can tell who got which: for `RememberedVariants`."""
        return [
            {"name": spec.name, "weight": spec.weight, "domain": one.domain if spec.message.raw is None else None}
            for spec, one in zip(self.specs, self.each, strict=True)
        ]


AnyMessage: TypeAlias = Compiled | Variants


class RememberedVariants:
    """What a journal knows of its job's variants.

    given    as `Variants.remembered` has it; shared: each variant was one message for all who got it
    """

    def __init__(self, job: str, given: Sequence[dict[str, Any]], shared: bool) -> None:
        self.names = [str(one["name"]) for one in given]
        self._job, self._shared = job, shared
        self._domains: list[str | None] = [one["domain"] for one in given]
        self._assignment = Assignment(job, [one["weight"] for one in given])

    def of(self, number: int, address: str) -> str:
        return self.names[self._assignment.of(number, address)]

    def message_id(self, number: int, address: str) -> str | None:
        which = self._assignment.of(number, address)
        domain = self._domains[which]
        if domain is None:
            return None
        return make_message_id(self._job, *((which, "") if self._shared else (number, address)), domain)


def each_of(message: AnyMessage) -> tuple[Compiled, ...]:
    """What there is to compose: one, or one for each variant."""
    return message.each if isinstance(message, Variants) else (message,)


def _places(each: Sequence[Compiled]) -> dict[str, list[tuple[str, bool]]]:
    """Where each name is used; variants share most places."""
    found: dict[str, dict[tuple[str, bool], None]] = {}
    for one in each:
        for name, places in one.places.items():
            found.setdefault(name, {}).update(dict.fromkeys(places))
    found.pop(NAME, None)
    return {name: list(places) for name, places in found.items()}


# ---- compiling -------------------------------------------------------------------------------------------------------


def compile_job(manifest: Manifest) -> AnyMessage:
    """A manifest's message, in all variants. raises  ManifestError  with every problem"""
    problems: dict[tuple[str, str], None] = {}
    if not manifest.variants:
        made = [_compiled(manifest, manifest.message, problems)]
    else:
        made = _compiled_variants(manifest, problems)
    each = [one for one in made if one is not None]
    if problems:
        found = [(where, f"{manifest.path}, {where}: {sentence}") for where, sentence in problems]
        raise ManifestError("\n".join(sentence for _, sentence in found), path=found[0][0], problems=found)
    return Variants(manifest.job, manifest.variants, each) if manifest.variants else each[0]


def _compiled_variants(manifest: Manifest, problems: dict[tuple[str, str], None]) -> list[Compiled | None]:
    """All of them shared, or none."""
    made: list[Compiled | None] = []
    for personal in (False, True):
        made = []
        for number, spec in enumerate(manifest.variants):
            found: dict[tuple[str, str], None] = {}
            made.append(_compiled(manifest, spec.message, found, spec.name, number, personal))
            path = path_in(spec, number)
            problems.update(dict.fromkeys((path(where), sentence) for where, sentence in found))
        if len({one.shared for one in made if one is not None}) < 2:
            break
    return made


def _compiled(
    manifest: Manifest,
    message: MessageSpec,
    problems: dict[tuple[str, str], None],
    name: str | None = None,
    number: int = 0,
    personal: bool = False,
) -> Compiled | None:
    from bulkmail.message.compile import CompileError, compile_message

    try:
        return compile_message(
            message,
            job=manifest.job,
            defaults=manifest.defaults,
            variables=manifest.variables if name is None else {**manifest.variables, NAME: name},
            folder=manifest.folder,
            personal=personal or manifest.mode == "personal",
            copy=number,
        )
    except CompileError as error:
        problems.update(dict.fromkeys(error.problems))
        return None


_KEY = re.compile(r"\$\.message\.([^.\[]+)")


def path_in(spec: VariantSpec, number: int) -> Callable[[str], str]:
    """From a path in a variant's whole message to that in the manifest: keys of its own stand in its entry."""

    def path(where: str) -> str:
        key = _KEY.match(where)
        own = key is not None and key[1] in spec.keys
        return where.replace("$.message", f"$.message.variants[{number}]", 1) if own else where

    return path
