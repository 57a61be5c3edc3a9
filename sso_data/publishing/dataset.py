"""A run's pairs, and everything it scored, to a dataset repository.

The journal's parts and the pairs are sent from where they are; what is made for the repository lies
in RUN/.push until it has arrived.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from sso_data.core.errors import ConfigError, InputError, RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.exporting.formats import llama_factory_entry
from sso_data.filtering.explain import effect_of
from sso_data.filtering.refilter import doubt_about, why_nothing
from sso_data.publishing.card import CardConfig, RunFacts, dataset_card, read_facts
from sso_data.publishing.hub import MAIN, HubRepo, check_repo_id
from sso_data.publishing.licence import demand_licence
from sso_data.publishing.public import public_json, public_text
from sso_data.publishing.readme import README, merge_card
from sso_data.publishing.upload import Parcel, Published, Target, publish, stage
from sso_data.runs.columns import row_key
from sso_data.runs.files import NewFile, make_dir, swap_dir, write_new
from sso_data.runs.journal import parts
from sso_data.runs.jsonl import read_lines, to_line, whole_lines_size
from sso_data.runs.pairs import check_pairs
from sso_data.runs.parquet import card_features
from sso_data.runs.run import DRY_PUSH, iterate_failures, require_run
from sso_data.runs.workdir import locked

PAIRS = "train.jsonl"
"""In the root of the repository: LLaMA-Factory, and people, find it there."""

FAILED = "failed.jsonl"
_OURS = re.compile(
    r"train\.jsonl|rows/\d{5,}\.jsonl|failed\.jsonl|run\.json|filter\.json|dataset_info\.json"
    r"|plots/[\w-]+\.png"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What a push would send: by its path there, where each file is, and its size in bytes.

    Those made for the repository are in `folder`, the others where the run has them.
    """

    repo: str
    folder: Path
    files: Mapping[str, Path]
    sizes: Mapping[str, int]


def push_run(  # noqa: PLR0913 - a public function of plain arguments
    run: Path,
    repo: str,
    *,
    what: str = "all",
    private: bool | None = None,
    revision: str = MAIN,
    endpoint: str | None = None,
    language: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - the name of the card's field
    overwrite: bool = False,
    confirmed: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Published | Packed:
    """Publish a run; `what` is `pairs` or `all` (also every scored row, and the failures).

    `private` None leaves a repository as it is; a new one is private. Everything is made and
    checked here before the Hub is asked. An unfinished run is published only in private, and so is
    one whose texts show no effect on the model, or without a licence (`license`, or in the
    repository's card), unless `confirmed`. With `dry_run` what would be sent, the card included, is
    put in RUN/push-dry-run, and the Hub is not asked: returns `Packed`. Raises SsoDataError,
    LicenceError among them; the repository is then as it was, or is private, or holds everything.
    """
    progress = progress or NullProgress()
    if what not in ("pairs", "all"):
        raise ConfigError(f"--what {what}: must be pairs or all")
    check_repo_id(repo)
    require_run(run)
    hub = None if dry_run else HubRepo("dataset", repo, endpoint=endpoint)
    with locked(run, "rows"), locked(run, "pairs"), stage(run) as folder:
        facts = _checked_facts(run, progress, public=private is False, confirmed=confirmed)
        if private is False and not license and not confirmed:
            demand_licence(facts, hub, revision)
        parcel = pack(facts, repo, folder, what=what, language=language, license=license)
        if hub is None:
            return _kept_here(parcel, folder, repo, run / DRY_PUSH)
        target = Target(hub=hub, revision=revision, private=private, overwrite=overwrite)
        return publish(parcel, target, progress)


def _kept_here(parcel: Parcel, folder: Path, repo: str, out: Path) -> Packed:
    """Move `folder`, which holds what was made for a push, to `out`; the run's files stay."""
    made = {**parcel.files, README: folder / README}
    sizes = {path: made[path].stat().st_size for path in sorted(made)}
    files = {
        path: out / path if made[path].is_relative_to(folder) else made[path] for path in sizes
    }
    swap_dir(folder, out)
    return Packed(repo=repo, folder=out, files=files, sizes=sizes)


def _checked_facts(run: Path, progress: Progress, *, public: bool, confirmed: bool) -> RunFacts:
    """Return what a run's card says; raises RunError where it must not become `public`."""
    facts = read_facts(run)
    if facts.unfinished and public:
        raise RunError(
            f"{run}: is unfinished, {facts.unfinished}; finish it with its `sso-data generate` "
            "command (--limit ends it earlier), or push it without --public"
        )
    effect = effect_of(facts.scores.rows)
    if effect.is_missing and public and not confirmed:
        raise RunError(
            f"{run}: {effect}; what that means is in docs/filter.md; publish it all the same "
            "with --yes, or without --public"
        )
    if int(facts.decided["kept"]) and (doubt := doubt_about(str(run), facts.scores)):
        progress.warn(doubt)
    if facts.unfinished:
        progress.note(f"the run is unfinished: {facts.unfinished}")
    progress.phase("making the card")
    if facts.decided["rows"] != len(facts.scores):
        progress.note(
            f"the pairs were decided on {facts.decided['rows']} of {len(facts.scores)} rows; "
            f"`sso-data filter {run}` decides again"
        )
    return facts


def pack(
    facts: RunFacts,
    repo: str,
    folder: Path,
    *,
    what: str = "all",
    language: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - the name of the card's field
) -> Parcel:
    """Make the whole content of the repository; files that the run has not go to `folder`.

    Raises InputError where the filter kept nothing or a field of the card is wrong, RunError where
    nothing can be written into the run.
    """
    run, kept, rows = facts.run, int(facts.decided["kept"]), len(facts.scores)
    if not kept:
        raise InputError(
            f"{run}: nothing to push, the filter kept none of {facts.decided['rows']} rows; "
            f"{why_nothing(run)}"
        )
    check_pairs(run / "pairs", PAIRS)
    files = {PAIRS: run / "pairs" / PAIRS, "filter.json": run / "pairs" / "filter.json"}
    features = card_features(files[PAIRS], journal=False)
    configs = [CardConfig(name="pairs", path=PAIRS, rows=kept, default=True, features=features)]
    if what == "all":
        journal = dict(_journal(run, folder))
        features = card_features(*journal.values(), journal=True)
        configs.append(CardConfig(name="rows", path="rows/*.jsonl", rows=rows, features=features))
        files |= journal | _failed(facts, folder)
    card, plots = dataset_card(
        facts,
        repo=repo,
        configs=configs,
        language=language,
        license=license,
        failures=FAILED if FAILED in files else None,
        command=f"sso-data push RUN {repo}{'' if what == 'all' else ' --what pairs'}",
    )
    # with `dataset_dir: REMOTE:<repo>`, LLaMA-Factory finds `pairs` in dataset_info.json
    entry = {"pairs": llama_factory_entry(hf_hub_url=repo, subset="pairs")}
    made = {
        "run.json": public_json(facts.manifest),
        "dataset_info.json": orjson.dumps(entry, option=orjson.OPT_INDENT_2) + b"\n",
        **plots,
    }
    for path, content in [*made.items(), (README, merge_card(card).encode())]:
        make_dir((folder / path).parent)
        write_new(folder / path, content)
    return Parcel(
        folder=run,
        files=files | {path: folder / path for path in made},
        card=card,
        what="run",
        identity_file="run.json",
        manifest=facts.manifest,
        identity_keys=("created",),
        ours=_OURS,
        title=f"{kept} preference pairs by sso-data",
    )


def _journal(run: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The journal's parts; one with a torn last line as a copy without it."""
    for part in parts(run):
        path = f"rows/{part.name}"
        whole = whole_lines_size(part)
        if whole == part.stat().st_size:
            yield path, part
        elif whole:
            make_dir(folder / "rows")
            with NewFile(folder / path) as copy:
                for _, line in read_lines(part):
                    copy.write(line)
            yield path, folder / path


def _failed(facts: RunFacts, folder: Path) -> dict[str, Path]:
    """failed.jsonl, where something failed, without directories of this machine in its messages.

    The run's file is a log. Of a prompt that failed several times only the newest line is taken,
    and none of a prompt that is a row by now.
    """
    failures = enumerate(iterate_failures(facts.run))
    newest = {row_key(failure.id): number for number, failure in failures}
    keys = np.fromiter(newest, np.uint64)
    for key in keys[np.isin(keys, facts.scores.keys())].tolist():
        del newest[key]
    if not (wanted := set(newest.values())):
        return {}
    with NewFile(folder / FAILED) as copy:
        for number, failure in enumerate(iterate_failures(facts.run)):
            if number in wanted:
                public = replace(failure, detail=public_text(failure.detail))
                copy.write(to_line(public.to_json()))
    return {FAILED: folder / FAILED}
