"""What it will take to make things: seconds by what they took before on this machine, tokens and dollars by the very
texts that will be sent.

The model of seconds, GPU seconds and bytes: a stage takes so many for each second of film, the median of the books (see
`costs`) over the film time in them. So an hour of one film counts as much as an hour in trailers, and one step that
hung counts little. Of what is made once for all titles, the film time is that of all titles.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mediafm_assets.graph.stage import ROOT, Stage
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from resources.errors import BadInput
from resources.machine import machine

if TYPE_CHECKING:
    import polars as pl

COSTS = "costs"
AT_ONCE = 200
"""Titles whose texts are looked up together among those that were paid for."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stage is expected to take; None where nobody can tell.

    title_id: None for what is made once for all titles.
    exact:    whether the tokens are of the very texts, counted as the service counts them.
    """

    stage: str
    title_id: str | None
    film_s: float | None
    seconds: float | None
    gpu_seconds: float | None
    bytes: float | None
    tokens: int
    dollars: float | None
    exact: bool


@dataclass(frozen=True)
class Rate:
    """What a second of film takes; None without history. as_configured: measured with today's code version."""

    seconds: float | None = None
    gpu_seconds: float | None = None
    bytes: float | None = None
    as_configured: bool = True


class History:
    """What the books say, for this machine. Bytes are those of any machine."""

    def __init__(self, catalogue: Catalogue) -> None:
        import polars as pl

        self._catalogue = catalogue
        books = catalogue.lake.read_whole(COSTS)
        self._books = books.filter(pl.col("made") & (pl.col("film_s") > 0))
        self._rates: dict[str, Rate] = {}

    @property
    def elsewhere(self) -> list[str]:
        """The other machines in the books."""
        return sorted(set(self._books["machine"]) - {machine()})

    def rate(self, stage: Stage) -> Rate:
        """By the books of the configured code version or, if there are none, of others."""
        if stage.name not in self._rates:
            self._rates[stage.name] = self._rate(stage)
        return self._rates[stage.name]

    def _rate(self, stage: Stage) -> Rate:
        of_stage = self._books.filter(stage=stage.name)
        here = of_stage.filter(machine=machine())
        if here.is_empty() and PROMOTIONS in stage.inputs:  # of all titles it was made by a promotion, in its books
            stage = self._catalogue.stages.by_table[PROMOTIONS]
            here = self._books.filter(stage=stage.name, machine=machine())
        as_configured = here.filter(code=code_of(stage, self._catalogue))
        rows = here if as_configured.is_empty() else as_configured
        return Rate(
            _median_rate(rows, "seconds"),
            _median_rate(rows, "gpu_seconds"),
            _median_rate(of_stage, "bytes"),
            not as_configured.is_empty(),
        )


def code_of(stage: Stage, catalogue: Catalogue) -> str:
    """The code versions of what the stage makes: with another one, it may take another time."""
    codes = (catalogue.stages.code_version(table, catalogue.resources) for table in stage.tables)
    return ", ".join(dict.fromkeys(codes))


def _median_rate(rows: "pl.DataFrame", what: str) -> float | None:
    """The median of so much for a second of film, over the film time in the rows."""
    import polars as pl

    if rows.is_empty():
        return None
    ordered = rows.select((pl.col(what) / pl.col("film_s")).alias("rate"), "film_s").sort("rate")
    passed = ordered["film_s"].cum_sum()
    return float(ordered["rate"].gather(int((passed < passed[-1] / 2).sum()))[0])


def expected_of_titles(
    catalogue: Catalogue, history: History, wanted: Mapping[str, Sequence[Stage]], lengths: Mapping[str, float | None]
) -> Iterator[Expected]:
    """What the stages take for each title, in their order. What two titles say alike is paid for once, by the first.

    lengths: of the films, in seconds; None where it is not known.
    """
    sent: set[str] = set()
    titles = list(wanted)
    of_texts = {stage.name: stage for stages in wanted.values() for stage in stages if stage.texts}
    services = {name: _encoder(catalogue, stage).paid for name, stage in of_texts.items()}
    for start in range(0, len(titles), AT_ONCE):
        some = titles[start : start + AT_ONCE]
        texts = {
            (title, stage.name): _inputs(catalogue, stage, title)
            for title in some
            for stage in wanted[title]
            if services.get(stage.name)
        }
        paid_for: dict[str, set[str]] = {}
        for name in {name for _, name in texts}:
            keys = [key for (_, of), (inputs, _) in texts.items() if of == name for key in inputs]
            paid_for[name] = services[name].paid_for(keys)
        for title in some:
            for stage in wanted[title]:
                tokens, dollars, exact = 0, 0.0, True
                if (title, stage.name) in texts:
                    inputs, exact = texts[title, stage.name]
                    unpaid = {k: n for k, n in inputs.items() if k not in paid_for[stage.name] and k not in sent}
                    sent |= unpaid.keys()
                    tokens = sum(unpaid.values())
                    dollars = services[stage.name].cost(tokens)
                yield _expected(history, stage, title, lengths[title], tokens, dollars, exact)


def expected_of_all(catalogue: Catalogue, history: History, stages: Iterable[Stage], film_s: float) -> list[Expected]:
    """What stages take that are made once for all titles, whose films last so long together."""
    return [
        _expected(history, stage, None, film_s, 0, stage.dollars(catalogue) if stage.dollars else 0.0, True)
        for stage in stages
    ]


def _expected(
    history: History, stage: Stage, title_id: str | None, film_s: float | None, tokens: int, dollars: Any, exact: bool
) -> Expected:
    rate = history.rate(stage)
    seconds, gpu_seconds, size = (
        None if of_second is None or film_s is None else of_second * film_s
        for of_second in (rate.seconds, rate.gpu_seconds, rate.bytes)
    )
    return Expected(stage.name, title_id, film_s, seconds, gpu_seconds, size, tokens, dollars, exact)


def _encoder(catalogue: Catalogue, stage: Stage) -> Any:
    return catalogue.resources[stage.recipes[0].shaped_by or ""]


def _inputs(catalogue: Catalogue, stage: Stage, title_id: str) -> tuple[dict[str, int], bool]:
    """What the stage would send for the title, with tokens, and whether that is known exactly."""
    assert stage.texts
    try:
        texts, exact = stage.texts(catalogue, title_id)
    except BadInput:  # the title will fail, and says so itself
        return {}, False
    paid = _encoder(catalogue, stage).paid
    return paid.inputs_of(texts), exact and paid.counts_exactly


def film_lengths(
    catalogue: Catalogue, fingerprints: Mapping[str, str], titles: Iterable[str]
) -> dict[str, float | None]:
    """How long the titles' films are, in seconds. Of a film that nobody registered yet, its header says so; of one in a
    bucket, which would have to be downloaded, the median of the registered ones has to do; None where there is none."""
    found: dict[str, float | None] = {}
    for title in titles:
        row = catalogue.title(title)
        if title not in fingerprints or catalogue.is_registered(title, fingerprints[title]):
            found[title] = row["duration_s"] if row else None
        elif "://" not in catalogue.resources["landing"].uri:
            found[title] = _declared_length(catalogue, title)
        else:
            found[title] = row["duration_s"] if row else catalogue.once(_usual_length)
    return found


def _usual_length(catalogue: Catalogue) -> float | None:
    lengths = catalogue.lake.read_whole(ROOT)["duration_s"]
    return None if lengths.is_empty() else float(lengths.sort()[len(lengths) // 2])


def _declared_length(catalogue: Catalogue, title_id: str) -> float | None:
    from resources.media import probe

    landing = catalogue.resources["landing"]
    try:
        drop = landing.drop(title_id)
        with landing.media(drop) as film:
            return probe(film).duration_s
    except BadInput:
        return None
