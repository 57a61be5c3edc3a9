"""A Hub on the loopback for the real clients: datasets and models to read and to write.

    with HubServer() as hub:
        hub.add_dataset("team/prompts", {"train.jsonl": b"..."})
        subprocess.run(command, env=os.environ | hub.environment(tmp_path / "hf"))

The client reads HF_ENDPOINT when it is imported, so it runs in a child process, or is given
`endpoint=hub.endpoint`. As at the real Hub, large files lie at a second origin (another host name
and port). What no route answers is a 404; `hub.requests` holds every request that came, and
`hub.plan` says which of them fail and how (`tests.loopback.faults`). The routes are in
`tests.loopback`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.loopback import reading, writing
from tests.loopback.http import ROUTES, Hub, Listening
from tests.loopback.repos import Repo

__all__ = ["HubServer", "Repo"]

assert ROUTES, (reading, writing)


class HubServer(Hub):
    """The two servers; use it as a context manager."""

    def add_dataset(self, repo: str, files: Mapping[str, bytes], **facts: Any) -> Repo:
        """A dataset with one commit; `facts` such as `gated=True` and `private=True`."""
        self.repos[repo] = Repo.of(files, **facts)
        return self.repos[repo]

    def environment(self, home: Path, *, xet: bool = False) -> dict[str, str]:
        """What a child process needs to take this server for the Hub."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def __enter__(self) -> "HubServer":
        self._api = Listening(self, is_storage=False)
        self._files = Listening(self, is_storage=True)
        self.endpoint, self.storage = self._api.address, self._files.address
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._api.stop()
        self._files.stop()
