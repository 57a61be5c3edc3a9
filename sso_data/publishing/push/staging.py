"""What a dataset repository is to hold, complete on this machine before the Hub is asked anything.

The journal's parts and the pairs are sent from where they are; what is made for the repository lies
in RUN/.push until it has arrived.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.exporting.formats import llama_factory_entry
from sso_data.publishing.card import DataConfig, dataset_card
from sso_data.publishing.card.metadata import read_metadata, split_page, with_changes
from sso_data.publishing.push.public import public_json, public_text
from sso_data.runs.columns import row_key
from sso_data.runs.features import card_features
from sso_data.runs.files import NewFile, make_dir, remove_tree, write_new
from sso_data.runs.journal import read_lines, to_line, whole_lines_size
from sso_data.runs.run import iterate_failures
from sso_data.runs.scores import load_scores, parts
from sso_data.runs.workdir import Manifest

STAGE = ".push"
PAIRS = "train.jsonl"
"""In the root of the repository: LLaMA-Factory, and people, find it there."""
FAILED = "failed.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What the user says of the dataset, for its card."""

    language: Sequence[str] = ()
    license: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """The files of the repository, README.md apart: path in it -> file here."""

    files: Mapping[str, Path]
    page: "Page"
    first_card: bytes

    def card(self, existing: str | None) -> bytes:
        """README.md, merged into the `existing` one."""
        if existing is None:
            return self.first_card
        return self.page.card(existing)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What README.md is made of; `features` are the columns of each configuration."""

    run: Path
    repo: str
    configs: tuple[DataConfig, ...]
    features: Mapping[str, list[dict[str, Any]]]
    wording: Wording
    failures: str | None

    def card(self, existing: str | None) -> tuple[bytes, Mapping[str, bytes]]:
        """README.md, merged into the `existing` one, and its pictures by their path."""
        what = "" if len(self.configs) > 1 else " --what pairs"
        card = dataset_card(
            self.run,
            repo=self.repo,
            configs=self.configs,
            existing=None if existing is None else _without_rows(existing, self.configs),
            language=self.wording.language,
            license=self.wording.license,
            failures=self.failures,
            command=f"sso-data push RUN {self.repo}{what}",
        )
        return _with_features(card.text, self.features).encode(), card.plots


def stage(
    run: Path,
    repo: str,
    manifest: Manifest,
    *,
    kept: int,
    rows: int | None,
    wording: Wording,
) -> Staged:
    """Make everything; `rows` is None where the pairs alone are to be published.

    Raises InputError naming a field of the card that is wrong, RunError where nothing can be
    written into the run.
    """
    folder = run / STAGE
    remove_tree(folder)
    make_dir(folder)
    files = {PAIRS: run / "pairs" / PAIRS, "filter.json": run / "pairs" / "filter.json"}
    configs = [DataConfig(name="pairs", files=(PAIRS,), rows=kept, default=True)]
    features = {"pairs": card_features(files[PAIRS], journal=False)}
    made = {"run.json": public_json(manifest), "dataset_info.json": _llama_factory(repo)}
    if rows is not None:
        journal = dict(_journal(run, folder))
        files |= journal
        configs.append(DataConfig(name="rows", files=("rows/*.jsonl",), rows=rows))
        features["rows"] = card_features(*journal.values(), journal=True)
        files |= _failed(run, folder)
    page = Page(
        run=run,
        repo=repo,
        configs=tuple(configs),
        features=features,
        wording=wording,
        failures=FAILED if FAILED in files else None,
    )
    card, plots = page.card(None)
    made |= plots
    for path, content in [*made.items(), ("README.md", card)]:
        make_dir((folder / path).parent)
        write_new(folder / path, content)
    files |= {path: folder / path for path in made}
    return Staged(files=files, page=page, first_card=card)


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


def _failed(run: Path, folder: Path) -> dict[str, Path]:
    """failed.jsonl, where something failed, without directories of this machine in its words.

    The run's file is a log. Of a prompt that failed several times only the newest line is taken,
    and none of a prompt that is a row by now.
    """
    newest = {row_key(failure.id): number for number, failure in enumerate(iterate_failures(run))}
    keys = np.fromiter(newest, np.uint64)
    for key in keys[np.isin(keys, load_scores(run, dry=True).keys())].tolist():
        del newest[key]
    wanted = set(newest.values())
    file = folder / FAILED
    with NewFile(file) as copy:
        for number, failure in enumerate(iterate_failures(run)):
            if number in wanted:
                public = replace(failure, detail=public_text(failure.detail))
                copy.write(to_line(public.to_json()))
    return {FAILED: file} if wanted else {}


def _llama_factory(repo: str) -> bytes:
    """dataset_info.json: with `dataset_dir: REMOTE:<repo>`, LLaMA-Factory finds `pairs` in it."""
    entry = {"pairs": llama_factory_entry(hf_hub_url=repo, subset="pairs")}
    return orjson.dumps(entry, option=orjson.OPT_INDENT_2) + b"\n"


def _without_rows(card: str, configs: Sequence[DataConfig]) -> str:
    """An earlier card of ours without the configuration whose files are not pushed any more."""
    if any(config.name == "rows" for config in configs):
        return card
    front, page = split_page(card)
    there = read_metadata(front)
    changes: dict[str, Any] = {}
    for key in ("configs", "dataset_info"):
        if isinstance(listed := there.get(key), list):
            changes[key] = [
                one
                for one in listed
                if not (isinstance(one, dict) and one.get("config_name") == "rows")
            ]
    return f"---\n{with_changes(front, changes)}---\n{page}" if changes else card


def _with_features(card: str, features: Mapping[str, list[dict[str, Any]]]) -> str:
    """The card with the columns of each configuration; entries of other configurations stay."""
    front, page = split_page(card)
    there = read_metadata(front).get("dataset_info") or []
    ours = [{"config_name": name, "features": found} for name, found in features.items()]
    others = there if isinstance(there, list) else [there]
    front = with_changes(front, {"dataset_info": [*others, *ours]})
    return f"---\n{front}---\n{page}"
