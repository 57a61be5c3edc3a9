"""Work directories: one writer at a time, a manifest, continued only as the same work.

A run (run.json), a training (train.json), an iteration (iterate.json) and an evaluation
(setup.json) are work directories. A manifest holds `schema_version`, the writer's version, the
`identity` (everything that decides the content, flat, by dotted key), the resolved `config`, the
`defaults` of the first start, and results of the work that continuing needs.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sso_data import __version__
from sso_data.config import migration
from sso_data.config.migration import Kind, upgraded
from sso_data.core.errors import RunError, one_line
from sso_data.core.fingerprints import same
from sso_data.core.trees import leaf_at
from sso_data.runs.files import locked_file, make_dir, remove_tree, write_atomic
from sso_data.runs.jsonl import CRC

Manifest = dict[str, Any]

OVERWRITE = "use another --out, or --overwrite to start over"
_TEXTS = ("templates", "principles")
"""Keys of identities that are hashes of texts; those that ship are read where no DIR is given."""


_FINGERPRINT = re.compile(r"[0-9a-f]{16,64}(\+[0-9a-f]{16,64})?")
_OPTIONS = ("principles", "templates", "model")
"""Keys of identities that are fingerprints of what an option names."""
_CONTENT = {
    "tokenizer": "the tokenizer's files",
    "chat_template": "the chat template, or what it is given,",
    "data": "the training data",
}
"""Keys of identities that are fingerprints of what no option names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkKind:
    """One kind of work directory.

    `noun`: "run", "training", ... in messages. `manifest`: the file name of its manifest.
    `files`: glob patterns of everything else that it writes and `--overwrite` removes. `orphans`:
    names that only this kind writes; they identify a directory that lost its manifest.
    `is_valid`: checks what a manifest must hold besides its identity. `how_to_make`: the command
    that makes one, with {path}.
    """

    noun: migration.Kind
    manifest: str
    files: tuple[str, ...]
    orphans: tuple[str, ...] = ()
    is_valid: Callable[[Manifest], bool] = lambda manifest: True
    how_to_make: str = ""

    @property
    def a_noun(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"


class WorkDir:
    """A work directory held by its one writer; `manifest` is the content of its manifest file."""

    def __init__(self, path: Path, kind: WorkKind, manifest: Manifest) -> None:
        self.path = path
        self.kind = kind
        self.manifest = manifest

    def get(self, key: str) -> Any:
        """Return a value of the manifest, or None."""
        return self.manifest.get(key)

    def set(self, **findings: object) -> None:
        """Put values into the manifest and write it, if it changes.

        Raises RunError when it cannot be written.
        """
        if any(self.manifest.get(key) != value for key, value in findings.items()):
            self.manifest |= findings
            write_json(self.path / self.kind.manifest, self.manifest)


def read_manifest(path: Path, kind: WorkKind) -> Manifest | None:
    """Return the manifest of a work directory, in this version's format; None if there is none.

    Raises RunError when it is not readable, is not a manifest of this kind, or was written by a
    later version of sso-data.
    """
    manifest = _read(path, kind)
    return None if manifest is None else migration.upgraded(manifest, kind.noun)


def require_manifest(path: Path, kind: WorkKind) -> Manifest:
    """Return the manifest; raises RunError, with how to make the work, if there is none."""
    manifest = read_manifest(path, kind)
    if manifest is None:
        what = f"no {kind.manifest} in it" if path.is_dir() else "no such directory"
        raise RunError(f"{path.absolute()}: {what}; {kind.how_to_make.format(path=path)}")
    return manifest


def stored_defaults(path: Path, kind: WorkKind) -> dict[str, Any]:
    """Return the defaults stored when the work was started, nested; {} for a new directory.

    Raises RunError as `read_manifest`.
    """
    manifest = _read(path, kind)
    return {} if manifest is None else migration.kept_defaults(manifest, kind.noun)


def refuse_other_content(path: Path, kind: WorkKind) -> None:
    """Raise RunError if `path` is a file, or a directory of something else; change nothing."""
    try:
        if not path.exists():
            return
        if not path.is_dir():
            raise RunError(f"{path}: is a file, not a directory; use another --out")
        if _read(path, kind) is not None:
            return
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    if orphans := [name for name in names if name in kind.orphans]:
        raise RunError(
            f"{path}: holds {orphans[0]} but no {kind.manifest}; use another --out or --overwrite"
        )
    if names:
        raise RunError(
            f"{path}: not empty and not {kind.a_noun} (it holds {names[0]}); use another --out"
        )


@contextmanager
def locked(path: Path, lock: str, what: str = "") -> Iterator[None]:
    """Hold one lock of a directory: a run's "rows" or "pairs", a training's "model", ...

    The lock ends with the process. Raises RunError when another process holds it; `what` it is
    writing is by default "its LOCK".
    """
    with locked_file(path / f".{lock}.lock") as is_ours:
        if not is_ours:
            what = what or f"its {lock}"
            raise RunError(f"{path}: another process is writing {what}; wait for it or end it")
        yield


def open_workdir(
    path: Path,
    kind: WorkKind,
    *,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    overwrite: bool = False,
    remedy: str = OVERWRITE,
    config: Mapping[str, Any] | None = None,
) -> WorkDir:
    """Start the work in `path`, or continue it when `identity` is that of the work there.

    The caller holds the directory's lock. `details` are put into the manifest besides the identity;
    their `defaults` only when the work starts. Raises RunError that names the first differences and
    the `remedy`, or when the directory holds something else. `config` is by default in the details.
    """
    make_dir(path)
    if not (overwrite and clear(path, kind)):
        refuse_other_content(path, kind)
    manifest = read_manifest(path, kind)
    if manifest is None:
        manifest = {
            "schema_version": migration.FORMAT,
            "sso_data": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": dict(identity),
            **details,
        }
        write_json(path / kind.manifest, manifest)
        return WorkDir(path, kind, manifest)
    configs = manifest.get("config"), config or details.get("config")
    refuse_another(path, kind.noun, manifest["identity"], identity, remedy, configs)
    found = WorkDir(path, kind, manifest)
    kept = {key: value for key, value in details.items() if key != "defaults"}
    there = manifest["identity"]  # of two equal fingerprints the one that goes further is kept
    longer = {key: identity[key] for key in there if len(str(identity[key])) > len(str(there[key]))}
    found.set(identity={**there, **longer}, **kept)
    return found


def clear(path: Path, kind: WorkKind) -> bool:
    """Remove what work of this kind writes into its directory; return False if there is none.

    The manifest is removed last: until then the directory is recognized.
    """
    if not any((path / name).exists() for name in (kind.manifest, *kind.orphans)):
        return False
    for pattern in kind.files:
        for found in sorted(path.glob(pattern)):
            remove_tree(found)
    remove_tree(path / kind.manifest)
    return True


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    then: Mapping[str, Any] | None = None,
    now: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return how two identities differ, one phrase a key: "KEY is X there and Y here".

    Of a fingerprint it tells what it stands for, by the configurations `then` and `now`.
    """
    found = []
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key, "absent"), here.get(key, "absent")
        if same(old, new):
            continue
        if _is_fingerprint(old) or _is_fingerprint(new):
            found.append(f"{key} is another: {_meant(key, old, new, then or {}, now or {})}")
        else:
            found.append(f"{key} is {json.dumps(old)} there and {json.dumps(new)} here")
    return found


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, str) and bool(_FINGERPRINT.fullmatch(value))


def _meant(
    key: str, old: object, new: object, then: Mapping[str, Any], now: Mapping[str, Any]
) -> str:
    """Return what differs where fingerprints do: names, or the content behind one name."""
    name = key.rpartition(".")[2]
    if name in _CONTENT:
        return f"{_CONTENT[name]} changed ({old} then, {new} now)"
    for path in (key, f"generate.{key}"):
        before, after = leaf_at(then, path), leaf_at(now, path)
        if before != after:
            option = f"--{name}" if name in _OPTIONS else path
            return ", ".join(
                f"{f'{option} {value}' if value else 'none'} {when}"
                for value, when in ((before, "then"), (after, "now"))
            )
        if before:
            return f"the content of {before} changed ({old} then, {new} now)"
    return f"{old} then, {new} now"


def _listed(changed: Sequence[str], most: int) -> str:
    """Return the first `most` differences, and how many more there are, as one phrase."""
    more = f" (and {len(changed) - most} more)" if len(changed) > most else ""
    return "; ".join(changed[:most]) + more


def refuse_another(
    path: Path,
    noun: str,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    remedy: str = OVERWRITE,
    configs: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
) -> None:
    """Raise RunError that names the first three differences of two identities, if there are any.

    Where texts differ that ship with the package, it says how to go on with the earlier ones.
    `configs` are the two configurations.
    """
    if changed := differences(there, here, *configs):
        of = "generate." if noun in ("iteration", "evaluation") else ""
        other = [key for key in _TEXTS if key in there and there[key] != here.get(key)]
        texts = [_as_begun(noun, f"{of}{key}", configs) for key in other]
        if len(changed) > max(1, len(other)):
            named = f" ({', '.join(texts)} among them)" if texts else ""
            remedy = f"give the options and the --config that began it{named}, or {remedy}"
        elif texts:
            remedy = (
                f"give the texts that began it with {' and '.join(texts)} (those that ship change "
                f"with the version: docs/principles.md), or {remedy}"
            )
        raise RunError(f"{path}: holds another {noun}: {_listed(changed, 3)}; {remedy}")


def _as_begun(
    noun: str, key: str, configs: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
) -> str:
    """Return the option of texts as work was begun with them: DIR where that is named as now."""
    then, now = (leaf_at(config or {}, key) for config in configs)
    value = then if then and then != now else "DIR"
    return f"--{key} {value}" if noun == "run" else f"--set {key}={value}"


def difference(there: bytes, here: Mapping[str, Any], *keys: str, kind: Kind = "run") -> str | None:
    """Return how the manifest `there` differs from the manifest `here`, or None.

    The identities and the values of `keys` are compared. `there`, a manifest of this `kind`, may
    be of an earlier format than `here`.
    """
    try:
        content = upgraded(json.loads(there), kind)
        changed = differences(dict(content["identity"]), here["identity"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest is not readable"
    changed += differences(
        {key: content.get(key) for key in keys}, {key: here.get(key) for key in keys}
    )
    return _listed(changed, 2) or None


def refuse_later_format(file: Path, content: Mapping[str, Any], *, known: int) -> None:
    """Raise RunError, with the version that wrote the file, for a later format than `known`."""
    written = content.get("schema_version", 1)
    if not isinstance(written, int) or written > known:
        writer = content.get("sso_data", "a later version")
        raise RunError(
            f"{file}: has format {written} of sso-data {writer}; this is sso-data {__version__}, "
            f"which reads formats up to {known}; upgrade sso-data"
        )


def read_json(file: Path, *, what: str, remedy: str = "") -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file.

    Raises RunError when it is not readable, is not an object (`what` it should be), or was changed
    after it was written; files of versions before 0.2.0 have no checksum.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RunError(f"{file.parent}: is a file, not a directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: not readable: {one_line(error, 200)}{remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: not {what}{remedy}")
    if content.pop(CRC, None) not in (None, _crc_of(content)):
        raise RunError(
            f"{file}: was changed after it was written (its checksum differs)"
            f"{remedy or '; restore it from a copy'}"
        )
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically, with its checksum; raises RunError when it cannot be."""
    write_atomic(file, sealed_json(content))


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Return `content` as indented JSON that holds the CRC-32 of its values, in any layout."""
    plain = json.loads(json.dumps(content, default=str))
    plain.pop(CRC, None)
    sealed = plain | {CRC: _crc_of(plain)}
    return (json.dumps(sealed, indent=2, ensure_ascii=False) + "\n").encode()


def _crc_of(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def section(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a mapping inside of a JSON object; {} if it is missing or not a mapping."""
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def _read(path: Path, kind: WorkKind) -> Manifest | None:
    """Return the manifest in its stored format; None if there is none."""
    file = path / kind.manifest
    what = f"the {kind.manifest} of {kind.a_noun} of sso-data"
    remedy = "; restore it from a copy, or use another --out (the other files are untouched)"
    content = read_json(file, what=what, remedy=remedy)
    if content is None:
        return None
    refuse_later_format(file, content, known=migration.FORMAT)
    if not isinstance(content.get("identity"), dict) or not kind.is_valid(content):
        raise RunError(f"{file}: not {what}{remedy}")
    return content
