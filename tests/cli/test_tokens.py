"""`scoring.keep_tokens`, `show --tokens` and `report --tokens` on the tiny policy."""

import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.core.records import Row
from sso_data.generation import tokens as module
from sso_data.runs.tokens import TOKENS, kept_tokens
from sso_data.runs.workdir import write_json
from sso_data.verification import verify
from tests.cli.conftest import INLINE, Cli, rows_of
from tests.reporting.test_report import rows_of as reported

OPTIONS = (*INLINE, "--limit=3", "--set=sampling.max_tokens=40", "--set=scoring.verify_rows=2")
KEEP = "--set=scoring.keep_tokens=true"


def shown(cli: Cli, run: Path, *options: str) -> list[dict[str, Any]]:
    done = cli("show", run, "-n4", "--tokens", "--json", *options)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["shown"]
    return found


def kept_of(run: Path) -> dict[str, Any]:
    return kept_tokens(run, [Row.from_json(row) for row in rows_of(run)])


def values(row: dict[str, Any], side: str, seen: str) -> list[float]:
    found: list[float] = row[f"{side}_tokens"][f"logp_{seen}"]
    return found


def test_tokens_are_kept_scored_anew_and_shown(
    cli: Cli, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, bare = tmp_path / "kept", tmp_path / "bare"
    for run, options in ((kept, (KEEP,)), (bare, ())):
        done = cli("generate", prompts, "--out", run, *OPTIONS, *options)
        assert done.exit_code == 0, done.output
    part = Path("rows/00000.jsonl")
    assert (kept / part).read_bytes() == (bare / part).read_bytes(), "no row is another"
    assert not (bare / TOKENS).exists()
    anew = shown(cli, bare)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_scored", None)  # kept ones need no model
        there = shown(cli, kept)
    for row, other in zip(there, anew, strict=True):
        for side, drawn in (("chosen", "good"), ("rejected", "bad"), ("original", "plain")):
            assert row[f"{side}_tokens"]["pieces"] == other[f"{side}_tokens"]["pieces"]
            assert "".join(row[f"{side}_tokens"]["pieces"]) == row[side][0]["content"]
            for seen in ("good", "bad", "plain"):
                if (total := row.get(f"logp_{seen}_{drawn}")) is None:
                    continue
                assert values(row, side, seen) == pytest.approx(
                    values(other, side, seen), rel=1e-3, abs=1e-3
                )
                assert sum(values(row, side, seen)) == pytest.approx(total, rel=1e-3, abs=1e-3)
    text = cli("show", kept, "-n4", "--tokens").stdout
    assert "its log-prob under good minus bad" in text

    # a crash: the last row and half of its tokens are gone, and are made again
    for file in (kept / part, kept / part.with_suffix(".scores"), kept / TOKENS):
        file.write_bytes(file.read_bytes()[:-50])
    assert cli("generate", prompts, "--out", kept, *OPTIONS, KEEP).exit_code == 0
    assert {len(cells) for cells in kept_of(kept).values()} == {8} and len(kept_of(kept)) == 3
    # another row is made while nothing is kept: the rest stays, that one is scored when shown
    more = cli("generate", prompts, "--out", kept, *OPTIONS, "--limit=4")
    assert more.exit_code == 0, more.output
    assert len(kept_of(kept)) == 3 and len(shown(cli, kept)) == 4
    merged = tmp_path / "merged"
    assert cli("merge", kept, bare, "--out", merged).exit_code == 0
    assert len(kept_of(merged)) == 3

    done = cli("report", kept, "--out", tmp_path / "out", "--tokens", "2")
    assert done.exit_code == 0, done.output
    rows = reported(tmp_path / "out")
    assert ["pieces" in row for row in rows] == [True, True, False, False]
    one = rows[0]["pieces"]["good"]
    assert "".join(one["texts"]) == rows[0]["answers"]["good"]
    assert sum(one["nats"]["bad"]) / rows[0]["tokens"]["good"] == pytest.approx(
        rows[0]["means"]["bad.good"], abs=0.01
    )
    refusals(cli, kept, bare)


def refusals(cli: Cli, kept: Path, bare: Path) -> None:
    """Changed lines, another model, and other totals."""
    assert all(finding.state != "fail" for finding in verify(kept))
    file = kept / TOKENS
    file.write_bytes(file.read_bytes().replace(b"logp_good_bad", b"logp_good_bat", 1))
    (wrong,) = (finding for finding in verify(kept) if finding.state == "fail")
    assert wrong.what == f"{file}:1" and "delete it" in wrong.remedy
    assert "tokens.jsonl:1: was changed" in cli("show", kept, "--tokens").stderr

    manifest = json.loads((bare / "run.json").read_text())
    other = manifest | {"identity": manifest["identity"] | {"model": "0" * 32}}
    write_json(bare / "run.json", other)
    assert "is not the model that made" in cli("show", bare, "--tokens").stderr
    write_json(bare / "run.json", manifest)
    rows = rows_of(bare)
    rows[0]["logp_bad_good"] -= 0.2 * rows[0]["chosen_num_tokens"]
    (bare / "rows/00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bare / "rows/00000.scores").unlink()
    done = cli("show", bare, rows[0]["id"], "--tokens")
    assert done.exit_code == 1 and "more than another arithmetic's" in done.stderr
