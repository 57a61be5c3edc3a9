"""The Python API: what the commands do, as functions of plain arguments.

Every function takes `config` as a nested mapping (`{"sampling": {"top_p": 0.9}}`), as the path of
a YAML file, or as a configuration object; the keys are those of docs/configuration.md and of the
command's own page. `progress` is any object with the methods of `core.progress.Progress`; None
shows nothing. Each raises a `core.errors.SsoDataError`, one line that says where, what and what to
do, for whatever a user can correct. Interrupted work goes on with the same call.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sso_data.config.loading import config_tree, validated
from sso_data.config.run import RunConfig, load_config
from sso_data.config.section import Section
from sso_data.core.errors import ConfigError, InputError
from sso_data.core.progress import Progress
from sso_data.core.records import JsonRow, Row

if TYPE_CHECKING:
    from sso_data.augmentation.augment import Augmented
    from sso_data.config.augmentation import AugmentConfig
    from sso_data.config.evaluation import EvalConfig
    from sso_data.config.iteration import IterateConfig
    from sso_data.config.training import TrainConfig
    from sso_data.doctor import Finding
    from sso_data.evaluation.result import Evaluation
    from sso_data.exporting.export import Exported
    from sso_data.filtering.refilter import Refiltered
    from sso_data.generation.generate import Summary
    from sso_data.iteration.report import Iterated
    from sso_data.publishing.upload import Published
    from sso_data.training.run import TrainSummary

__all__ = [
    "augment",
    "evaluate",
    "export",
    "filter_run",
    "generate",
    "iterate",
    "load_config",
    "push",
    "read_pairs",
    "read_rows",
    "train",
    "verify",
]

C = TypeVar("C", bound=Section)
Config = Mapping[str, Any] | str | Path | None
Prompts = str | Path | Iterable[str | Sequence[Mapping[str, str]] | Mapping[str, Any]]
"""A file, directory or Hub id; or the prompts: texts, lists of chat messages, or rows."""


def generate(
    prompts: Prompts,
    out: str | Path,
    *,
    model: str | None = None,
    config: "RunConfig | Config" = None,
    except_: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Summary":
    """Sample, score and filter: make or continue the run directory `out`.

    Prompts that are no file are written to `OUT.prompts.jsonl` first. Rows of the runs `except_`
    are left to these. Returns the counts (prompts = rows + failed + elsewhere), the filter's
    decision with its funnel, and what this call did. Raises InputError, ConfigError, ModelError,
    EngineError or RunError.
    """
    from sso_data.generation import generate as generation

    resolved = _config(RunConfig, config, model=model)
    source = _source(prompts, out)
    others = [Path(run) for run in except_]
    return generation.generate(
        source, Path(out), resolved, progress, except_=others, overwrite=overwrite
    )


def filter_run(
    run: str | Path,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, object] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> "Refiltered":
    """Decide again which rows of a run become pairs: no GPU, as often as you like.

    `run` is a run directory, or the Hub id of a pushed run, which is then made in `out`. `settings`
    are keys of the filter, for example `{"gap": 0.1}`. Returns the decision and the run's counts.
    With `dry_run` nothing is written. Raises ConfigError, HubError or RunError.
    """
    from sso_data.filtering import refilter
    from sso_data.publishing.read_back import run_directory

    to = None if out is None else Path(out)
    where = run_directory(str(run), to, dry_run=dry_run, progress=progress)
    given = [f"filter.{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    config = refilter.run_config(where, given, preset=preset)
    return refilter.refilter(where, config, progress, dry_run=dry_run)


def train(
    data: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    config: "TrainConfig | Config" = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "TrainSummary":
    """Train `model` on a run, a file of pairs or a Hub dataset; the trained model goes to `out`.

    Returns the content of train.json and how many steps this call made. Raises ConfigError,
    InputError, ModelError, RunError or TrainError.
    """
    from sso_data.config.training import TrainConfig
    from sso_data.training import run

    resolved = _config(TrainConfig, config, model=model)
    return run.train(str(data), Path(out), resolved, progress, overwrite=overwrite)


def evaluate(
    model: str | Path,
    prompts: Prompts,
    out: str | Path,
    *,
    against: str | Path,
    judge: str | None = None,
    config: "EvalConfig | Config" = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Evaluation":
    """Compare `model` with `against` on held-out prompts, by a judge where one is named.

    `judge` is `oracle`, `rule`, `reward:MODEL`, `llm:MODEL` or `python:MODULE:FUNCTION`. Returns
    win rates with their intervals, lengths and steering. Raises ConfigError, InputError,
    ModelError, EngineError, JudgeError or RunError.
    """
    from sso_data.config.evaluation import EvalConfig, judge_tree
    from sso_data.evaluation import run

    named = {"judge": judge_tree(judge)} if judge is not None else {}
    resolved = _config(EvalConfig, config, **named, prompts=_name_of(prompts, out))
    _source(prompts, out)
    return run.evaluate(
        str(model), str(against), resolved, Path(out), progress, overwrite=overwrite
    )


def iterate(
    prompts: Prompts,
    out: str | Path,
    *,
    model: str | None = None,
    rounds: int | None = None,
    config: "IterateConfig | Config" = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Iterated":
    """Make rounds of generating, filtering, measuring and training in the directory `out`.

    Returns a line of numbers a round, the last good policy, and why it stopped early, if it did.
    Raises ConfigError, InputError, ModelError, EngineError, JudgeError, RunError or
    RoundTrainingError.
    """
    from sso_data.config.iteration import IterateConfig
    from sso_data.iteration import run

    given: dict[str, object] = {"model": model, "rounds": rounds, "prompts": _name_of(prompts, out)}
    resolved = _config(IterateConfig, config, **given)
    _source(prompts, out)
    return run.iterate(resolved, Path(out), progress, overwrite=overwrite)


def augment(
    prompts: Prompts,
    out: str | Path,
    number: int,
    *,
    model: str | None = None,
    config: "AugmentConfig | Config" = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Augmented":
    """Write `number` new queries to the file `out`, made from seed queries by `model`.

    Returns the counts by operation and by reason, and the report. Raises ConfigError, InputError,
    ModelError, EngineError or RunError.
    """
    from sso_data.augmentation.augment import augment as run_augment
    from sso_data.config.augmentation import AugmentConfig

    resolved = _config(AugmentConfig, config, model=model)
    source = _source(prompts, out)
    return run_augment(source, Path(out), number, resolved, progress, overwrite=overwrite)


def export(
    run: str | Path,
    to: str,
    out: str | Path,
    *,
    drawn: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Exported":
    """Write a run's pairs in the format of another program into the directory `out`.

    `to` is one of the formats of docs/export.md, for example `trl` or `axolotl`. `drawn` (the view
    of the answers) and `name` (of the model) are for the formats that hold answers. Returns the
    files and where every row went. Raises ConfigError, InputError or RunError.
    """
    from sso_data.exporting.export import export as run_export

    return run_export(
        Path(run), to, Path(out), drawn=drawn, name=name, overwrite=overwrite, progress=progress
    )


def push(  # noqa: PLR0913 - the options of the command
    directory: str | Path,
    repo: str,
    *,
    what: str = "all",
    private: bool | None = None,
    revision: str = "main",
    endpoint: str | None = None,
    language: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - the name of the card's field
    overwrite: bool = False,
    confirmed: bool = False,
    progress: Progress | None = None,
) -> "Published":
    """Publish a run as the dataset `repo` of the Hub, or a trained model as a model, in one commit.

    A new repository is private unless `private` is False; a run whose texts show no effect, or that
    has no `license`, is then published only if `confirmed`. The token is that of `hf auth login` or
    HF_TOKEN. `what`, `revision`, `endpoint`, `language` and `license` are for runs. Returns the
    address and the commit. Raises ConfigError, InputError, HubError or RunError.
    """
    from sso_data.publishing.dataset import push_run
    from sso_data.publishing.model import push_model
    from sso_data.publishing.upload import Published
    from sso_data.training.state import MANIFEST

    if (Path(directory) / MANIFEST).exists():
        if (what, revision, endpoint, tuple(language), license) != ("all", "main", None, (), None):
            raise ConfigError(
                f"{directory}: what, revision, endpoint, language and license are for runs, and "
                "this is a trained model; leave them out"
            )
        return push_model(
            Path(directory), repo, private=private, overwrite=overwrite, progress=progress
        )
    done = push_run(
        Path(directory),
        repo,
        what=what,
        private=private,
        revision=revision,
        endpoint=endpoint,
        language=language,
        license=license,
        overwrite=overwrite,
        confirmed=confirmed,
        progress=progress,
    )
    assert isinstance(done, Published)
    return done


def verify(directory: str | Path, progress: Progress | None = None) -> "list[Finding]":
    """Check every file below a directory that later calls read; change nothing.

    It holds runs, trainings, iterations or augmentations.

    Returns a finding a file, or a line that is wrong: what, its state (`ok`, `warn`, `fail`), the
    detail and what can be done. Raises RunError where the directory holds none of these.
    """
    from sso_data.verification import verify as run_verify

    return run_verify(Path(directory), progress)


def read_rows(run: str | Path) -> Iterator[Row]:
    """Yield every row of a run's journal, kept or not, in the order written.

    A row with `rest_not_asked` may lack responses and log-probs (scoring.when=needed). Raises
    RunError, as the rows are asked for, where the run or a line of it cannot be read.
    """
    from sso_data.runs import journal
    from sso_data.runs.run import require_run

    require_run(Path(run))
    yield from journal.read_rows(Path(run))


def read_pairs(run: str | Path) -> Iterator[JsonRow]:
    """Yield the kept rows of a run as `filter` last decided, as in `pairs/train.jsonl`.

    Raises RunError, as the rows are asked for, where the run has no pairs or a line of them cannot
    be read.
    """
    from sso_data.runs import pairs

    for _, row in pairs.read_pairs(Path(run)):
        yield row


def _config(kind: type[C], config: C | Config, **given: object) -> C:
    """A configuration of `kind`: the given keys over those of `config`. Raises ConfigError."""
    if isinstance(config, kind):
        tree = config.model_dump(exclude_unset=True)
    elif isinstance(config, str | Path):
        tree = config_tree(Path(config))
    elif config is None or isinstance(config, Mapping):
        tree = copy.deepcopy(dict(config or {}))
    else:
        raise ConfigError(
            f"config: is a {type(config).__name__}; give a file, a mapping or a {kind.__name__}"
        )
    return validated(kind, config_tree(None, None, base=tree, **given), origin="config")


def _source(prompts: Prompts, out: str | Path) -> str:
    """Return the prompts as a source that can be read again; those that are no file are written.

    Raises InputError for prompts that cannot be written.
    """
    name = _name_of(prompts, out)
    if isinstance(prompts, str | Path):
        return name
    from sso_data.runs.files import make_dir, write_atomic

    rows = [one if isinstance(one, Mapping) else {"prompt": one} for one in prompts]
    try:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"prompts: cannot be written as JSON: {error}") from error
    make_dir(Path(name).parent)
    write_atomic(Path(name), text)
    return name


def _name_of(prompts: Prompts, out: str | Path) -> str:
    """Return the name of the source that `_source` returns."""
    return str(prompts) if isinstance(prompts, str | Path) else f"{out}.prompts.jsonl"
