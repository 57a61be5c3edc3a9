"""Many files: commits to a pull request, one after the other, that is merged when all are there."""

import hashlib
from collections.abc import Mapping
from itertools import islice

from sso_data.publishing.hub.client import Hub
from sso_data.publishing.hub.failures import HubTroubleError
from sso_data.publishing.hub.parcel import Changes, Local, Parcel, changes_to
from sso_data.publishing.hub.sending import Meter, uploaded


def by_request(
    hub: Hub,
    repo: str,
    author: str,
    parcel: Parcel,
    files: Mapping[str, Local],
    *,
    meter: Meter,
    files_a_commit: int,
) -> None:
    """Bring `files` to main through a pull request of ours, the one of an earlier try if any.

    Raises HubError; main is as it was then, or holds everything.
    """
    title = _title(parcel)
    open_ones = [
        number for number, name in hub.open_requests(repo, author).items() if name == title
    ]
    number = max(open_ones, default=0) or hub.open_request(repo, title)
    if hub.has_conflicts(repo, number):
        hub.close_request(repo, number)
        raise HubTroubleError(f"{repo}: main has changed under pull request {number}, now closed")
    branch = f"refs/pr/{number}"
    while True:
        state = hub.look(repo, branch)
        if state is None:
            raise HubTroubleError(f"{repo}: {branch} is not there yet")
        changes = changes_to(state.files, files, parcel.is_ours)
        if not changes:
            break
        part = _first(changes, files_a_commit)
        with uploaded(hub, repo, branch, part.new, meter) as operations:
            hub.commit(repo, branch, operations, part.gone, title=parcel.title, parent=state.commit)
    hub.merge_request(repo, number)


def _title(parcel: Parcel) -> str:
    """The same for every try to push the same, and for nothing else."""
    digest = hashlib.sha256(parcel.files[parcel.mark].read_bytes()).hexdigest()
    return f"{parcel.title} [{digest[:8]}]"


def _first(changes: Changes, count: int) -> Changes:
    """The first `count` of the changes."""
    new = dict(islice(changes.new.items(), count))
    return Changes(new=new, gone=changes.gone[: count - len(new)])
