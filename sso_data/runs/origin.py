"""Where a run's rows come from: what was given to `generate`, and the runs that were merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.runs.decided import section


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Prompts as one call of `generate` read them; `settings` are the `source.*` keys that it set.

    Those with their default values are not in it.
    """

    source: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A run by the name of its directory: the runs merged in it, and what it was given itself.

    Directories of several machines may have the same name.
    """

    run: str
    given: tuple[Given, ...]
    merged: tuple["Origin", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the run.json of the run that it was merged into."""
        found: dict[str, Any] = {"run": self.run, "given": [one.to_json() for one in self.given]}
        return found | ({"merged": [part.to_json() for part in self.merged]} if self.merged else {})


def origin_of(manifest: Mapping[str, Any], run: str) -> Origin:
    """The origin of a run from its run.json; where that names sources alone, with its settings."""
    merged = tuple(origin_of(part, str(part.get("run"))) for part in _mappings(manifest, "merged"))
    given = tuple(
        Given(source=str(one.get("source")), settings=section(one, "settings"))
        for one in _mappings(manifest, "given")
    )
    if not given and not merged:
        settings = section(section(manifest, "config"), "source")
        sources = manifest.get("sources")
        listed = sources if isinstance(sources, list) else []
        given = tuple(Given(source=str(source), settings=settings) for source in listed)
    return Origin(run=run, given=given, merged=merged)


def _mappings(facts: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A part of run.json that is a list of mappings; what is something else is left out."""
    found = facts.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
