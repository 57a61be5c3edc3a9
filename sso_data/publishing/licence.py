"""The licence that public data needs: what is known of the model's and the prompts', and a demand.

Texts of a model, made of prompts of others, may be bound by both licences; nobody can guess which.
"""

from collections.abc import Iterator
from pathlib import Path

from sso_data.core.errors import HubError, InputError, LicenceError
from sso_data.core.paths import is_local, public_name
from sso_data.publishing.card import RunFacts
from sso_data.publishing.hub import HubRepo, Kind
from sso_data.publishing.readme import README, read_metadata, split_page


def demand_licence(facts: RunFacts, hub: HubRepo | None, revision: str) -> None:
    """Raise LicenceError unless the repository's card names a licence already.

    The message names the licences of the model and of the prompts, as far as they are known.
    Without `hub` only this machine is asked.
    """
    if hub is None or not _of_repo(hub, revision):
        known = "; ".join(f"{what}: {found or 'not known'}" for what, found in _known(facts, hub))
        raise LicenceError(
            f"{facts.run}: public data needs a licence; name it with --license ({known}), or "
            "publish without one with --yes"
        )


def _known(facts: RunFacts, hub: HubRepo | None) -> Iterator[tuple[str, str]]:
    """Yield the model and each source of prompts with its licence, "" where it is not known."""
    model, listed = facts.config.model, facts.manifest.get("sources")
    yield f"the model {public_name(model)}", _licence("model", model, hub)
    for source in map(str, listed if isinstance(listed, list) else []):
        yield f"the prompts {public_name(source)}", _licence("dataset", source, hub)


def _licence(kind: Kind, name: str, hub: HubRepo | None) -> str:
    """The licence that the card of a local directory, or of a repository of the Hub, names."""
    repo = name.partition(":")[0]
    if is_local(name) or "/" not in repo:
        card = Path(name) / README
        try:
            return _of_card(card.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ""
    if hub is None:
        return ""
    try:
        return _of_repo(HubRepo(kind, repo, endpoint=hub.endpoint, needs_token=False))
    except HubError:
        return ""


def _of_repo(hub: HubRepo, revision: str = "main") -> str:
    state = hub.look(revision)
    if state is None or state.commit is None or README not in state.files:
        return ""
    return _of_card(hub.read(README, state.commit).decode("utf-8", "replace"))


def _of_card(card: str) -> str:
    """The `license` of a card's metadata; "" without one, and for a card that is malformed."""
    try:
        found = read_metadata(split_page(card)[0]).get("license")
    except InputError:
        return ""
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found or "")
