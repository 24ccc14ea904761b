"""Who of the recipients gets the message: seeds first, then those of the list that nothing leaves out.

    where -> sample -> suppression files -> duplicates

Whoever is left out is suppressed, with the reason, so that a job's counts add up to its list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from bulkmail.errors import ManifestError, MessageError
from bulkmail.job.cutting import Cutter
from bulkmail.job.recipients import Place, RowBatch, Source
from bulkmail.job.rows import RowProblem, lacking
from bulkmail.job.seeds import FIRST_OFFSET, WHERE, Seeds, is_seed, number_of
from bulkmail.job.shares import Shares
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.suppression import DUPLICATE, RecipientFilter
from bulkmail.job.variants import AnyMessage, each_of

if TYPE_CHECKING:
    from bulkmail.job.manifest import Manifest
    from bulkmail.job.where import Where

NOT_MEANT: Final = "suppressed: where"
NOT_DRAWN: Final = "suppressed: sample"
SEED: Final = "suppressed: a seed, sent to as one"


class Selection:
    """Says of each recipient, in the order of the source, whether it is left out.

    message  says which fields a row must have
    job      its name: a sample is another one for another job
    names    what stands in for names that a row lacks: defaults and variables; locale: of filters in `where`
    raises   ManifestError  for a `where` that cannot be used
    """

    def __init__(
        self,
        spec: RecipientsSpec,
        message: AnyMessage,
        job: str = "",
        names: Mapping[str, Any] | None = None,
        locale: str | None = None,
    ) -> None:
        self.seeds = Seeds.of(spec.always_include)
        self._required, self._breakless = message.fields, message.header_fields
        self._copies = len(each_of(message))
        self._spec = spec
        self._filter = RecipientFilter()  # of `scan`: lists may be long, and a resumed job does not ask them
        self._where = _where(spec.where, names, locale) if spec.where is not None else None
        self._sample = _sample(job, spec.sample) if spec.sample is not None else None
        self._seeded: set[str] = set()

    def scan(
        self,
        source: Source,
        batch: int = 1000,
        *,
        seeds: bool = True,
        rows: bool = False,
        start: Place | None = None,
        cutter: Cutter | None = None,
    ) -> Iterator[RowBatch]:
        """The seeds, then those of the source; rows without a field that the message needs are bad.

        rows    the batches are to have them; where there is a `where` they always do
        start   where an earlier scan of the source ended
        cutter  takes whom nothing is asked about: where `asks` says that decide() would leave nobody out

        Where there is a `where`, `decide` says that of them: it may be what leaves such rows out.
        raises  ManifestError  for a seed that is a bad row, or a suppression file that cannot be used
        """
        self._filter = RecipientFilter(deduplicate=self._spec.deduplicate, suppress=self._spec.suppress)
        if self.seeds and seeds:
            yield from self._seed_rows()
        required = frozenset[str]() if self._where is not None else self._required
        rows = rows or self._where is not None
        yield from source.scan(
            batch, required=required, header_fields=self._breakless, rows=rows, start=start, cutter=cutter
        )

    def decide(self, batch: RowBatch) -> dict[int, str]:
        """Who of a batch is left out: index -> reason. Rows that `where` fails for become bad ones of the batch."""
        if batch.numbers and is_seed(batch.numbers[0]):
            # Each of them is to be sent, however often it stands there.
            return {i: reason for i, reason in self._filter.filter_all(batch.addresses) if reason != DUPLICATE}
        out: dict[int, str] = {}
        if self._where is not None:
            out = self._judge(batch, self._where)
        if self._seeded:
            out |= {i: SEED for i, address in enumerate(batch.addresses) if address.lower() in self._seeded}
        if self._sample is not None:
            out = {i: NOT_DRAWN for i, share in enumerate(self._sample.of_all(batch.addresses)) if share} | out
        if not self._filter:
            return out
        if not out:
            return dict(self._filter.filter_all(batch.addresses))
        rest = [i for i in range(len(batch.addresses)) if i not in out]
        for place, reason in self._filter.filter_all([batch.addresses[i] for i in rest]):
            out[rest[place]] = reason
        return out

    @property
    def asks(self) -> bool:
        """Whether decide() may leave anybody out, or has to tell seeds from the list."""
        drawn = self._where is not None or self._sample is not None
        return drawn or bool(self.seeds or self._spec.deduplicate or self._spec.suppress)

    @property
    def remembers(self) -> bool:
        """Whether it matters who came before."""
        return bool(self._spec.deduplicate)

    def _seed_rows(self) -> Iterator[RowBatch]:
        """A batch of all of them for each variant."""
        seeds = RowBatch()
        self.seeds.parse(seeds, self._required, self._breakless)
        problems = [(f"{WHERE}[{bad.number - 1}]", bad.reason) for bad in seeds.problems]
        if problems:
            text = "\n".join(f"{path}: {reason}" for path, reason in problems)
            raise ManifestError(text, path=problems[0][0], problems=problems)
        self._seeded = {address.lower() for address in seeds.addresses}
        for variant in range(self._copies):
            yield RowBatch(
                [number_of(seed, variant) for seed in seeds.numbers],
                [FIRST_OFFSET + offset for offset in seeds.offsets],
                list(seeds.addresses),
                [dict(row) for row in seeds.rows],
                failed=list(seeds.failed),
            )

    def _judge(self, batch: RowBatch, where: Where) -> dict[int, str]:
        """Those whom `where` leaves out; rows that it fails for, and those that lack a field, become bad ones."""
        out: dict[int, str] = {}
        bad: dict[int, str] = {}
        for i, row in enumerate(batch.rows):
            try:
                if not where(row):
                    out[i] = NOT_MEANT
                elif not self._required <= row.keys():
                    bad[i] = lacking(min(self._required - row.keys()))
            except MessageError as error:
                bad[i] = str(error)
        if not bad:
            return out
        places = _take_out(batch, bad)
        return {places[i]: reason for i, reason in out.items()}


def selection_of(manifest: Manifest, message: AnyMessage) -> Selection:
    names = {**manifest.defaults, **manifest.variables}
    return Selection(manifest.recipients, message, manifest.job, names, manifest.message.locale)


def _where(text: str, names: Mapping[str, Any] | None, locale: str | None) -> Where:
    from bulkmail.job.where import Where  # Jinja2 is loaded only by who uses it

    try:
        return Where(text, names, locale)
    except MessageError as error:
        raise ManifestError(str(error), path="$.recipients.where") from None


def _sample(job: str, share: Fraction) -> Shares | None:
    return Shares("sample", job, [int(share * 2**64)]) if share < 1 else None


def _take_out(batch: RowBatch, bad: Mapping[int, str]) -> dict[int, int]:
    """Make these rows bad ones: where the others stand now."""
    batch.problems += [RowProblem(batch.numbers[i], batch.numbers[i], reason) for i, reason in bad.items()]
    kept = [i for i in range(len(batch.rows)) if i not in bad]
    places = {i: place for place, i in enumerate(kept)}
    batch.numbers[:] = [batch.numbers[i] for i in kept]
    batch.offsets[:] = [batch.offsets[i] for i in kept]
    batch.addresses[:] = [batch.addresses[i] for i in kept]
    batch.rows[:] = [batch.rows[i] for i in kept]
    batch.failed[:] = [(places[i], reason) for i, reason in batch.failed if i in places]
    return places
