"""Exceptions of the Hub's client as one-line errors, and which of them are worth another try."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sso_data.core.errors import HubError, described, one_line
from sso_data.core.progress import Progress

_T = TypeVar("_T")

_WAITS = (1.0, 2.0, 4.0, 8.0)
_LONGEST_WAIT = 300.0
"""Seconds between tries, and the most that a server may ask for."""

_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_NETWORK = {"TransportError", "TimeoutException", "ConnectionError"}
_SPENT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_XET_STATUS = re.compile(r"\((\d{3}) [A-Z]")


class HubTroubleError(HubError):
    """A failure that may be gone at the next try; `wait`: how many seconds the server asks for."""

    def __init__(self, text: str, *, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


@contextmanager
def hub_errors(what: str, endpoint: str) -> Iterator[None]:
    """Turn an exception of the client into a HubError of one line: where, what, what to do.

    `what` is being done at `endpoint`. A failure that may pass is a HubTroubleError.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        cause = _cause(error)
        status, kind = _status(cause), type(cause).__name__
        said = one_line(getattr(cause, "server_message", None) or str(cause), 200).rstrip(".")
        found: type[HubError] = HubError
        if status in _PASSING:
            text = f"the Hub answers {status} ({said})"
            raise HubTroubleError(f"{what}: {text}", wait=_retry_after(cause)) from error
        if status == 401:
            text = (
                "the token was refused (expired, revoked, or not for this); make a new one at "
                f"{endpoint}/settings/tokens, then `hf auth login`"
            )
        elif kind == "GatedRepoError":
            text = "access is restricted (gated); request it on its page, then run it again"
        elif status == 403:
            text = f"the token has no permission for this ({said}); use one that may write there"
        elif status is not None:
            text = f"the Hub answers {status} ({said})"
        elif kind == "OfflineModeIsEnabled":
            text = "offline mode is on; unset HF_HUB_OFFLINE and run it again"
        elif not _is_network(cause):
            text = described(cause)
        else:
            found, reason = HubTroubleError, one_line(cause, 160) or kind
            text = f"cannot reach {endpoint} ({reason}); check the network, proxies and HF_ENDPOINT"
        raise found(f"{what}: {text}") from error


def patiently(attempt: Callable[[], _T], progress: Progress) -> _T:
    """The result of `attempt`, which is repeated while it raises HubTroubleError, at most 4 times.

    Each try begins at the beginning: it looks at the Hub's state and does what is missing.
    """
    for wait in _WAITS:
        try:
            return attempt()
        except HubTroubleError as error:
            seconds = max(wait, error.wait)
            if seconds > _LONGEST_WAIT:
                raise
            progress.warn(f"{error}; trying again in {seconds:.0f} s")
            time.sleep(seconds)
    return attempt()


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an exception of the client, if any."""
    return _status(_cause(error))


def _cause(error: BaseException) -> BaseException:
    """The cause of an exception of the client, which threads and progress bars wrap."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        if _status(seen) is not None or _is_network(seen):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    found = _XET_STATUS.search(str(error)) if isinstance(error, ConnectionError) else None
    return int(found[1]) if found else None


def _is_network(error: BaseException) -> bool:
    """Check that no answer came; the client's HTTP library has another name in each version."""
    return any(kind.__name__ in _NETWORK for kind in type(error).__mro__)


def _retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait, by Retry-After (not as a date) or by RateLimit."""
    response: Any = getattr(error, "response", None)
    if response is None:
        return 0.0
    value = response.headers.get("retry-after", "")
    spent = _SPENT.search(response.headers.get("ratelimit", ""))
    return float(value) if value.isdigit() else float(spent[1]) if spent else 0.0
