"""The content of files on its way to the Hub, with every byte counted."""

import io
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sso_data.core.errors import HubError
from sso_data.publishing.hub.client import Hub, client_utils
from sso_data.publishing.hub.parcel import Local

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

Sent = Callable[[int, int], None]
"""Called with (bytes sent, bytes to send)."""


class Meter:
    """How much of what is to be sent has gone, over all files and tries; never goes down."""

    def __init__(self, total: int, sent: Sent) -> None:
        self._total = total
        self._sent = sent
        self._done: dict[object, int] = {}
        self._shown = 0
        self._lock = threading.Lock()
        sent(0, total)

    def set(self, what: object, done: int) -> None:
        """So many bytes of `what` have gone."""
        with self._lock:
            self._done[what] = done
            shown = min(sum(self._done.values()), self._total)
            if shown > self._shown:
                self._shown = shown
                self._sent(shown, self._total)

    def finish(self) -> None:
        """Everything is there; some of it may have been there before."""
        if self._shown < self._total:
            self._shown = self._total
            self._sent(self._total, self._total)


class _Counted(io.BufferedReader):
    """A file whose reader tells the meter how far it has come."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(io.FileIO(path))
        self._meter = meter
        self.is_sent = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.is_sent:
            self._meter.set(self, self.tell())
        return data

    __hash__ = object.__hash__


@contextmanager
def uploaded(
    hub: Hub, repo: str, revision: str, files: Mapping[str, Local], meter: Meter
) -> Iterator[list["CommitOperationAdd"]]:
    """The files as operations of a commit, the large ones among them sent; use them inside.

    Raises HubError. A file that the Hub holds already, from a try that broke off, is not sent.
    """
    from huggingface_hub import CommitOperationAdd

    with ExitStack() as stack:
        operations = []
        reports = stack.enter_context(_xet_reports(meter))
        _show_bars(reports)
        for path, local in files.items():
            source: Any = local.source
            if isinstance(source, Path) and not _uses_xet():
                source = stack.enter_context(_Counted(source, meter))
            operations.append(CommitOperationAdd(path, source))
            if isinstance(source, _Counted):
                source.is_sent = True  # until here it was only hashed
        hub.upload(repo, revision, operations)
        _refuse_ignored(repo, operations)
        yield operations


def _show_bars(are_ours: bool) -> None:
    """Switch the client's bars off; over Xet they are what reports to us, and have to be on."""
    utils = client_utils()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the user decides by an environment variable
        (utils.enable_progress_bars if are_ours else utils.disable_progress_bars)()


def _refuse_ignored(repo: str, operations: Sequence["CommitOperationAdd"]) -> None:
    """HubError for files that the client would leave out of the commit without a word."""
    left_out = [one.path_in_repo for one in operations if getattr(one, "_should_ignore", False)]
    if left_out:
        raise HubError(
            f"{repo}: its .gitignore keeps {left_out[0]} out; remove that line from it, then run "
            "the same command again"
        )


def _uses_xet() -> bool:
    """Whether the client sends large files over Xet, which it does by default, or over LFS."""
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


@contextmanager
def _xet_reports(meter: Meter) -> Iterator[bool]:
    """Have uploads over Xet reported to the meter; yields False where that cannot be done.

    The client draws bars of its own and offers no other place to listen.
    """
    try:
        from huggingface_hub.utils import _xet_progress_reporting as reporting

        original = reporting.XetUploadProgressReporter
    except (ImportError, AttributeError):
        yield False
        return

    class Reporter:
        """Takes the place of the client's bars."""

        def __init__(self, *_how: Any, **_much: Any) -> None:
            """Whatever the client's bars are told does not matter here."""

        def update_progress(self, group: Any, _files: Any) -> None:
            meter.set("xet", int(group.total_bytes_completed))

        def close(self) -> None:
            """There is nothing to close."""

    place: Any = reporting
    is_used = _uses_xet()
    place.XetUploadProgressReporter = Reporter if is_used else original
    try:
        yield is_used
    finally:
        place.XetUploadProgressReporter = original
