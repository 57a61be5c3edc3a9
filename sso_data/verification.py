"""`verify`: compare a whole directory with the checksums of what was written; change nothing."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import orjson

from sso_data.augmentation.output import check_output, is_report
from sso_data.core.errors import RunError, SsoDataError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Row
from sso_data.doctor import Finding
from sso_data.models.directory import adapter_fingerprint, model_fingerprint
from sso_data.runs.checksums import changed, recorded_in
from sso_data.runs.journal import NOT_A_ROW, load_scores, match, not_a_line, parts, side_file
from sso_data.runs.jsonl import read_lines, read_objects, unsealed, whole_lines_size
from sso_data.runs.pairs import CHECKSUMS, check_pairs, read_decided
from sso_data.runs.run import (
    DRY_PUSH,
    RUN,
    iterate_failures,
    require_run,
    run_account,
    unfinished,
)
from sso_data.runs.steering import read_steering
from sso_data.runs.tokens import TOKENS
from sso_data.runs.workdir import read_json, require_manifest, section
from sso_data.training.state import COMPLETE, TRAINING, check_checkpoint, check_model, checkpoints

_AGAIN = "run the command that made it again: it goes on"
_NO_CHECKSUMS = "none needed: versions before 0.2.0 wrote no checksums; taken as it is"


def verify(directory: Path, progress: Progress | None = None) -> list[Finding]:
    """Return what was found about every run, training, iteration and augmentation in `directory`.

    Raises RunError where there is none.
    """
    progress = progress or NullProgress()
    found: list[Finding] = []
    kinds: Mapping[str, Callable[[Path], Iterator[Finding]]] = {
        RUN.manifest: _run,
        TRAINING.manifest: _training,
        **dict.fromkeys(("verdicts.jsonl", "answers.jsonl", TOKENS), _sealed_lines),
        "round.json": _round,
        **dict.fromkeys(("iterate.json", "setup.json", "eval.json"), _sealed_object),
    }
    for file in sorted(directory.rglob("*.json*")):
        check = _augmentation if is_report(file) else kinds.get(file.name)
        # what `push --dry-run` made of a run is read by no later command
        of_push = file.parent.name == DRY_PUSH and (file.parents[1] / RUN.manifest).is_file()
        if check and not file.parent.name.startswith(".") and not of_push:
            progress.phase(f"checking {file}")
            found += check(file)
    if not found:
        what = "no run, training, iteration or augmentation of sso-data in it"
        there = directory.is_dir()
        raise RunError(f"{directory.absolute()}: {what if there else 'no such directory'}")
    return found


def _tried(what: Path, check: Callable[[], object], said: str = "") -> Iterator[Finding]:
    """Yield what a check found; the text of its error says what can be done."""
    try:
        result = check()
    except SsoDataError as error:
        yield _failed(what, error)
    else:
        yield Finding(str(what), "ok", said or str(result or "as it was written"))


def _failed(what: Path, error: SsoDataError) -> Finding:
    """Return an error as a finding: where, what is wrong, and after a semicolon the remedy."""
    said, _, remedy = str(error).partition("; ")
    if found := re.match(r"(/?\S*): (.*)", said):
        return Finding(found[1], "fail", found[2], remedy)
    return Finding(str(what), "fail", said, remedy)


def _run(file: Path) -> Iterator[Finding]:
    run = file.parent
    yield from _tried(file, lambda: require_run(run) and "readable")
    damaged = False
    for part in parts(run):
        for finding in _part(part):
            damaged |= finding.state == "fail"
            yield finding
    failed, steering = run / "failed.jsonl", run / "steering.jsonl"
    if failed.exists():
        yield from _tried(failed, lambda: f"{sum(1 for _ in iterate_failures(run))} lines")
    if steering.exists():
        yield from _tried(steering, lambda: f"{sum(1 for _ in read_steering(run))} lines")
    if not damaged:
        yield from _accounted(run)
    yield from _pairs(run / "pairs")


def _part(part: Path) -> Iterator[Finding]:
    """Yield what is wrong with lines of a journal part, each by its number, or how many are not."""
    lines, wrong, bare = match(part), False, 0
    for refusal in lines.refusals():
        wrong = True
        yield _failed(part, refusal)
    known = set(lines.changed())
    for position, (_, line) in enumerate(read_lines(part)):
        if lines.record[position] >= 0 or position in known:
            continue
        bare += 1
        try:
            Row.from_json(orjson.loads(line))
        except (*NOT_A_ROW, SsoDataError) as error:
            wrong = True
            yield _failed(part, not_a_line(part, position + 1, error))
    if wrong:
        return
    if torn := part.stat().st_size - whole_lines_size(part):
        yield Finding(str(part), "warn", f"{torn} bytes of an unfinished last line", _AGAIN)
    count = len(lines.record)
    if bare:
        detail = f"{bare} of {count} lines have no checksum in {side_file(part).name}"
        yield Finding(str(part), "warn", detail, "none needed: they are rows, and taken as such")
    else:
        yield Finding(str(part), "ok", f"{count} lines, each as it was written")


def _accounted(run: Path) -> Iterator[Finding]:
    """Yield whether every prompt is there once."""
    try:
        manifest, scores = require_run(run), load_scores(run, dry=True)
        account = run_account(run, scores)
    except SsoDataError as error:
        yield _failed(run, error)
        return
    if missing := unfinished(manifest, account):
        yield Finding(str(run), "warn", f"unfinished: {missing}", _AGAIN)
    else:
        yield Finding(str(run), "ok", account.balance)


def _pairs(pairs: Path) -> Iterator[Finding]:
    if not pairs.is_dir():
        yield Finding(str(pairs), "warn", "no pairs yet", f"sso-data filter {pairs.parent}")
        return
    try:
        recorded = recorded_in(read_decided(pairs.parent), CHECKSUMS)
    except SsoDataError as error:
        yield _failed(pairs / "filter.json", error)
        return
    if not recorded:
        yield Finding(str(pairs), "warn", "no checksums in filter.json", _NO_CHECKSUMS)
    for name in recorded:
        yield from _tried(pairs / name, lambda name=name: check_pairs(pairs, name))  # type: ignore[misc]


def _training(file: Path) -> Iterator[Finding]:
    out = file.parent
    for checkpoint in checkpoints(out):
        mark = checkpoint / COMPLETE
        if not mark.is_file():
            yield Finding(str(checkpoint), "warn", "not written to the end", _AGAIN)
        else:
            yield from _tried(checkpoint, lambda mark=mark: check_checkpoint(mark.parent))  # type: ignore[misc]
    try:
        manifest = require_manifest(out, TRAINING)
    except SsoDataError as error:
        yield _failed(file, error)
        return
    if "finished" not in manifest:
        yield Finding(str(out), "warn", "the training has not finished", _AGAIN)
    elif not recorded_in(manifest, "files"):
        yield Finding(str(out), "warn", f"no checksums in {file.name}", _NO_CHECKSUMS)
        is_adapter = (out / "adapter_config.json").is_file()
        fingerprint = adapter_fingerprint if is_adapter else model_fingerprint
        yield from _tried(out, lambda: f"fingerprint {fingerprint(out)}")
    else:
        yield from _tried(out, lambda: check_model(out, manifest), "the model is as it was written")


def _sealed_lines(file: Path) -> Iterator[Finding]:
    def check() -> str:
        return f"{sum(1 for where, row in read_objects(file) if unsealed(row, where))} lines"

    yield from _tried(file, check)


def _sealed_object(file: Path) -> Iterator[Finding]:
    yield from _tried(file, lambda: read_json(file, what="a JSON object") and "")


def _augmentation(report: Path) -> Iterator[Finding]:
    yield from _tried(report, lambda: check_output(report))


def _round(file: Path) -> Iterator[Finding]:
    """Yield whether the prompts of an iteration's round are those that it took."""
    place = file.parent
    try:
        remedy = f"; restore it from a copy, or delete {place} to repeat the round"
        facts = read_json(file, what="the round.json of an iteration", remedy=remedy) or {}
    except RunError as error:
        yield _failed(file, error)
        return
    recorded = recorded_in(section(section(facts, "steps"), "sliced"), CHECKSUMS)
    wrong = changed(place, recorded)
    for name in recorded:
        if name in wrong:
            remedy = f"restore it from a copy, or delete {place} to repeat the round"
            yield Finding(str(place / name), "fail", "is not as the round wrote it", remedy)
        else:
            yield Finding(str(place / name), "ok", "as it was written")
