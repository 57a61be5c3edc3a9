"""Public data needs a licence: what is known is named, a terminal is asked, others are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.runs.workdir import write_json
from tests.hub_server import HubServer, Repo
from tests.publishing.conftest import REPO, Push

NEEDS = "public data needs a licence; name it with --license"
CARD = b"---\nlicense: %s\n---\n# One\n"


def made_of(run: Path, model: str, *sources: str) -> None:
    """Let the run's manifest name a model and sources of prompts."""
    manifest = json.loads((run / "run.json").read_text())
    manifest["config"]["model"] = model
    write_json(run / "run.json", manifest | {"sources": sources})


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_without_one_it_is_refused_in_one_line(
    hub: HubServer, push: Push, run: Path, options: tuple[str, ...]
) -> None:
    done = push(run, "--public", *options)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1 and NEEDS in line and line.endswith("--yes")
    assert "(the model test: not known; the prompts in.jsonl: not known)" in line
    assert not hub.repos
    assert push(run, *options).exit_code == 0, "privately it needs none"


def test_what_the_cards_of_model_and_prompts_say_is_named(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "README.md").write_bytes(CARD % b"llama3.1")
    hub.add_dataset("team/prompts", {"README.md": CARD % b"[odc-by, mit]"})
    hub.add_dataset("team/bare", {"README.md": b"---\nlicense: [\n---\n"})
    hub.repos["models/org/policy"] = Repo.of({"README.md": CARD % b"apache-2.0"}, kind="model")
    made_of(run, "org/policy")
    assert "(the model org/policy: apache-2.0)" in push(run, "--public").stderr
    made_of(run, str(tmp_path / "policy"), "team/prompts:main", "team/bare", "team/missing")
    done = push(run, "--public")
    assert (
        "(the model policy: llama3.1; the prompts team/prompts:main: odc-by, mit; the prompts "
        "team/bare: not known; the prompts team/missing: not known)"
    ) in done.stderr
    assert "team/prompts:main: not known" in push(run, "--public", "--dry-run").stderr
    assert REPO not in hub.repos


def test_a_licence_in_the_repository_s_card_is_enough(
    hub: HubServer, push: Push, run: Path
) -> None:
    assert push(run, "--license", "cc0-1.0").exit_code == 0
    assert push(run, "--public").exit_code == 0
    assert not hub.repos[REPO].private
    assert b"license: cc0-1.0" in hub.repos[REPO].files["README.md"]


def test_yes_publishes_without(hub: HubServer, push: Push, run: Path) -> None:
    assert push(run, "--public", "--yes").exit_code == 0
    assert b"license:" not in hub.repos[REPO].files["README.md"]


class TestATerminal:
    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Streams that say they are one, and a person who answers."""
        monkeypatch.setattr("sso_data.cli.publishing._is_terminal", lambda: True)

    def answer(self, monkeypatch: pytest.MonkeyPatch, text: str) -> list[Any]:
        asked: list[Any] = []

        def prompt(words: str, **options: Any) -> str:
            asked.append((words, options))
            return text

        monkeypatch.setattr("typer.prompt", prompt)
        return asked

    def test_is_asked(
        self, hub: HubServer, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.answer(monkeypatch, " apache-2.0 ")
        done = push(run, "--public")
        assert done.exit_code == 0 and NEEDS in done.stderr, done.output
        assert asked == [("licence", {"err": True})]
        assert b"license: apache-2.0" in hub.repos[REPO].files["README.md"]

    def test_a_wrong_answer_is_refused(
        self, hub: HubServer, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.answer(monkeypatch, "my own!")
        done = push(run, "--public")
        assert done.exit_code == 1 and "is not a licence identifier" in done.stderr
        assert not hub.repos

    def test_a_script_is_not_asked(
        self, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.answer(monkeypatch, "mit")
        done = push(run, "--public", "--json")
        assert done.exit_code == 1 and not asked
        assert json.loads(done.stdout)["error"]["type"] == "LicenceError"
