"""Changed configuration keys: one table by which manifests of earlier versions are upgraded.

A manifest (run.json, train.json, iterate.json, setup.json, an augmentation's report) holds the
resolved configuration and the identity of the work. When a key is renamed, a key is added, or a
default changes, a `Change` here keeps directories that were begun before going on to the same
content: renamed keys take their new names, added keys take the value that the earlier version
behaved by, and changed defaults keep their old value.

Journal rows and failures are not touched: their field names do not change.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from sso_data.core.trees import Tree, deep_merge, leaf_at, put

FORMAT = 5
"""`schema_version` of the manifests that this version writes."""

_SAME = object()
"""Marks a change that is no new key and no new default."""

Kind = Literal["run", "training", "iteration", "evaluation", "augmentation"]
C = TypeVar("C", bound=BaseModel)

PLACES: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    "run": {"run": ("",), "prompts": ("",)},
    "training": {"training": ("",)},
    "iteration": {
        "iteration": ("",),
        "run": ("generate.",),
        "training": ("train.", "generator.train."),
        "judge": ("held_out.judge.",),
        "prompts": ("generate.",),
    },
    "evaluation": {"run": ("generate.",), "judge": ("judge.",), "prompts": ("",)},
    "augmentation": {"augmentation": ("",), "prompts": ("",)},
}
"""Key prefixes of the configurations in each kind of manifest."""

IDENTITY_PLACES = {**PLACES, "evaluation": {"run": ("",)}}
"""Key prefixes of the configurations that identities hold; an evaluation's is its run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One changed key, dotted, of the configurations `of`; it came with `format`.

    `old`: the name that the key had before (a renamed key), or None. `values`: values that were
    renamed. `default`: what directories of earlier formats keep where they do not name the key (a
    new key, or a changed default). `in_identity`: identities hold the key; as a string, those that
    hold this other key do (those of runs hold no filter, those of labelled iterations no run).
    """

    format: int
    of: tuple[str, ...]
    key: str
    old: str | None = None
    values: Mapping[Any, Any] = field(default_factory=dict)
    default: Any = _SAME
    in_identity: bool | str = False


CHANGES: tuple[Change, ...] = (
    Change(
        format=2,
        of=("run", "judge", "augmentation"),
        key="engine.isolation",
        old="engine.process",
        values={"child": "subprocess"},
    ),
    Change(format=2, of=("training",), key="loss.type", old="loss.base"),
    Change(format=2, of=("training",), key="optim.compute_dtype", old="optim.compute"),
    Change(format=2, of=("training",), key="optim.param_dtype", old="optim.weights"),
    Change(format=2, of=("training",), key="optim.batch_size", old="optim.batch_rows"),
    Change(format=2, of=("training",), key="optim.warmup_steps", old="optim.warmup"),
    Change(
        format=2,
        of=("training",),
        key="reward.center_rewards_coefficient",
        old="reward.centre",
    ),
    *(
        Change(format=version, of=(of,), key=key, default=default, in_identity=in_identity)
        for version, of, key, default, in_identity in (
            (3, "run", "sampling.top_k", 0, "sampling.top_p"),
            (3, "run", "sampling.min_p", 0.0, "sampling.top_p"),
            (3, "run", "sampling.samples", 1, "filter.gap"),
            (3, "run", "steering.placement", "system", "steering.choose"),
            (3, "run", "steering.checks", "form", "steering.max_length_ratio"),
            (3, "run", "filter.steered", "chain", "filter.gap"),
            (3, "run", "filter.closeness_offset", 0.0, "filter.gap"),
            (3, "run", "filter.keep_best", 1.0, "filter.gap"),
            (3, "run", "filter.per_prompt", "all", "filter.gap"),
            (3, "run", "filter.drop_echoes", False, "filter.gap"),
            (3, "training", "optim.warmup_from_zero", True, "optim.lr"),
            (3, "training", "optim.save_dtype", "auto", "optim.lr"),
            (3, "iteration", "carry_float32", False, True),
            (3, "judge", "principles", None, False),
            (3, "augmentation", "checks.questions", False, True),
            (3, "augmentation", "checks.pieces", False, True),
            (4, "run", "scoring.when", "all", "scoring.full"),
            (4, "run", "engine.count", "auto", False),
            (4, "run", "engine.servers", [], False),
            (4, "run", "engine.server_model", None, False),
            (5, "run", "engine.cluster", None, False),
            (4, "prompts", "source.format", "column", "source.column"),
            (4, "prompts", "source.take", None, "source.column"),
            (4, "training", "data.skip_bad_rows", False, "data.limit"),
            (5, "run", "scoring.keep_tokens", False, False),
            (5, "run", "engine.attention", "auto", False),
            (5, "run", "filter.steered", "chain", False),
            (5, "run", "filter.closeness", 0.3, False),
            (5, "run", "filter.closeness_offset", 0.0, False),
            (5, "run", "filter.gap", 0.05, False),
        )
    ),
)


def upgraded(manifest: Mapping[str, Any], kind: Kind) -> Tree:
    """Return a manifest in this version's format; unchanged if it is in it already."""
    written = manifest.get("schema_version", 1)
    if written >= FORMAT:
        return dict(manifest)
    found: Tree = copy.deepcopy(dict(manifest))
    added: Tree = {}
    for change, prefix in _changes(PLACES[kind], after=written):
        config = found.get("config")  # an iteration's may have no such part, e.g. a generator
        is_held = not isinstance(config, dict) or _section(config, f"{prefix}key") is not None
        if change.default is not _SAME and is_held:
            put(added, f"{prefix}{change.key}", change.default)
        for name in ("config", "defaults"):
            if isinstance(found.get(name), dict):
                _rename_nested(found[name], change, prefix)
    if isinstance(found.get("identity"), dict):
        for change, prefix in _changes(IDENTITY_PLACES[kind], after=written):
            _rename_flat(found["identity"], change, prefix)
    recorded = found.get("defaults")
    if defaults := deep_merge(added, recorded if isinstance(recorded, dict) else {}):
        found["defaults"] = defaults
    return found | {"schema_version": FORMAT}


def kept_defaults(manifest: Mapping[str, Any], kind: Kind) -> Tree:
    """Return the defaults of a directory's first start, nested.

    Directories of format 1 recorded none: they keep the defaults that changed since, as CHANGES
    names them.
    """
    found = upgraded(manifest, kind).get("defaults")
    return found if isinstance(found, dict) else {}


def earlier_values(section: str) -> Tree:
    """Return what directories of earlier formats keep for the keys of a run's section."""
    start = f"{section}."
    return {
        change.key.removeprefix(start): change.default
        for change in CHANGES
        if change.default is not _SAME and "run" in change.of and change.key.startswith(start)
    }


def defaults_of(config: BaseModel) -> Tree:
    """Return the values of the keys that the user did not give, nested."""
    return _without(config.model_dump(mode="json"), config.model_dump(exclude_unset=True))


def with_defaults(config: C, defaults: Mapping[str, Any]) -> C:
    """Return `config` with a directory's stored `defaults` for the keys that the user did not give.

    Keys whose default has not changed since stay unset. Raises pydantic's ValidationError where
    the two contradict each other.
    """
    changed = _differing(defaults, config.model_dump(mode="json"))
    if not changed:
        return config
    given = config.model_dump(exclude_unset=True)
    return type(config).model_validate(deep_merge(changed, given))


def renamed(key: str) -> str | None:
    """Return the new name of a dotted key that was renamed; None for other keys.

    A user's own file or option with an old name is refused with this name.
    """
    for change in CHANGES:
        if change.old is not None and (key == change.old or key.endswith(f".{change.old}")):
            return key.removesuffix(change.old) + change.key
    return None


def _changes(places: Mapping[str, tuple[str, ...]], *, after: int) -> Iterator[tuple[Change, str]]:
    """Yield the changes since format `after` with every prefix that they apply to."""
    for change in CHANGES:
        if change.format > after:
            for of in change.of:
                for prefix in places.get(of, ()):
                    yield change, prefix


def _rename_flat(identity: Tree, change: Change, prefix: str) -> None:
    old, new = f"{prefix}{change.old}", f"{prefix}{change.key}"
    if change.old is not None and old in identity:
        value = identity.pop(old)
        identity[new] = change.values.get(value, value) if change.values else value
        return
    beside = change.in_identity
    if beside is True or (beside and f"{prefix}{beside}" in identity):
        identity.setdefault(new, change.default)


def _rename_nested(config: Tree, change: Change, prefix: str) -> None:
    if change.old is not None:
        section = _section(config, f"{prefix}{change.old}")
        leaf = change.old.rpartition(".")[2]
        if section is not None and leaf in section:
            value = section.pop(leaf)
            put(config, f"{prefix}{change.key}", change.values.get(value, value))
    elif change.default is not _SAME:
        section = _section(config, f"{prefix}{change.key}")
        if section is not None:
            section.setdefault(change.key.rpartition(".")[2], change.default)


def _section(tree: Tree, key: str) -> Tree | None:
    """Return the mapping that holds the leaf of a dotted key, or None."""
    above = key.rpartition(".")[0]
    found = leaf_at(tree, above) if above else tree
    return found if isinstance(found, dict) else None


def _differing(tree: Mapping[str, Any], other: Mapping[str, Any]) -> Tree:
    """Return the leaves of `tree` that are missing in `other` or differ there."""
    found: Tree = {}
    for key, value in tree.items():
        there = other.get(key, {}) if isinstance(value, dict) else other.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if inner := _differing(value, there):
                found[key] = inner
        elif key not in other or value != there:
            found[key] = value
    return found


def _without(whole: Tree, given: Mapping[str, Any]) -> Tree:
    """Return `whole` without the leaves that `given` has."""
    left: Tree = {}
    for key, value in whole.items():
        if key not in given:
            left[key] = value
        elif isinstance(value, dict) and isinstance(given[key], dict):
            inner = _without(value, given[key])
            if inner:
                left[key] = inner
    return left
