"""`scoring.when=needed`: the pairs of `all`, with less asked for; `complete` makes the rest."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import pytest

from sso_data.config.run import RunConfig
from sso_data.core.errors import RunError
from sso_data.core.records import VIEWS, Row, derive_seed
from sso_data.engines.interface import Request, Result, Sampled, SampleRequest, Scored, ScoreRequest
from sso_data.exporting.export import export
from sso_data.filtering.filters import Decision
from sso_data.filtering.refilter import refilter, run_config, standing_config
from sso_data.generation import generate as module
from sso_data.generation.complete import complete
from sso_data.generation.generate import generate
from sso_data.generation.merge import merge
from sso_data.generation.pipeline import ORDER
from sso_data.runs import columns
from sso_data.runs.columns import (
    Flag,
    always_complete,
    flags_of,
    lacking,
    representative,
    row_key,
)
from sso_data.runs.journal import load_scores
from sso_data.runs.workdir import write_json
from sso_data.steering.stats import principle_stats
from tests.factories import STRICT
from tests.reliability.flow import HashEngine, Silent, content, scripted
from tests.reliability.injector import Recorder, in_place_of_os, plant

LONG = Path(__file__).resolve().parents[2] / "principles" / "long"
PROMPTS = 40
FIRST = 4
HELLO = tuple(range(40, 44))
FILTERS: dict[str, dict[str, Any]] = {
    "the default": {},
    "chain": STRICT,
    "off, any length": {"steered": "off", "drop_truncated": False},
    "contrast": {"steered": "contrast", "gap": 0.1},
    "off, a quantile": {"steered": "off", "gap": 0.1, "closeness": "q0.7"},
    "the paper's means": {"preset": "reference"},
    "the paper's means, strictly": {"preset": "reference", "strict_paper": True},
    "the best half": {"steered": "contrast", "keep_best": 0.5},
    "no test of log-probs": {"preset": "none"},
}


class FickleEngine(HashEngine):
    """Answers that depend on the request alone, and of which any test drops some rows.

    Means are multiples of 1/64, so that sums of them do not depend on the order of the rows.
    """

    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self, **options: Any) -> None:
        super().__init__(refused=None, **options)

    def submit(self, requests: Any) -> None:
        super().submit(requests)
        for request in requests:
            FickleEngine.asked["sample" if isinstance(request, SampleRequest) else "score"] += 1

    def _answer(self, request: Request) -> Result:
        answer = super()._answer(request)
        row, *views = request.key.split("/")
        is_own = len(set(views)) == 1  # scoring says what sampling said
        dice = derive_seed(7, f"{row}/{views[0]}" if is_own else request.key, "dice")
        if isinstance(answer, Sampled):
            shift = dice % 64 / 32 * len(answer.token_ids)
            cut = dice % 9 == 0
            return replace(
                answer,
                total_nats=answer.total_nats - shift,
                finish_reason="length" if cut else "stop",
            )
        if isinstance(answer, Scored):
            assert isinstance(request, ScoreRequest)
            shift = dice % 64 / 32 * len(request.completion_ids)
            return replace(answer, total_nats=(answer.total_nats - shift) * self.factor(is_own))
        return answer

    def factor(self, is_own: bool) -> float:
        return 1.0


class OtherScores(FickleEngine):
    """Sampling and scoring disagree, so that on-view cells are scored for every row."""

    def factor(self, is_own: bool) -> float:
        return 1.25 if is_own else 1.0


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    lines = (json.dumps({"prompt": f"Question {number}?"}) for number in range(PROMPTS))
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, FickleEngine)
    monkeypatch.setattr(module, "_FIRST_ROWS", FIRST)


def config(when: str, **sections: Any) -> RunConfig:
    scoring = {"when": when, "verify_rows": 2}
    return RunConfig.model_validate({"model": "scripted", **sections, "scoring": scoring})


def made(prompts: Path, out: Path, when: str, **sections: Any) -> dict[str, Any]:
    """Rows by id, pairs and what was asked of the engine."""
    FickleEngine.asked.clear()
    done = generate(str(prompts), out, config(when, **sections), Silent())
    assert done.account.rows == PROMPTS == len(done.decision.reason_code)
    return found_in(out) | {"asked": Counter(FickleEngine.asked), "done": done}


def found_in(out: Path) -> dict[str, Any]:
    files = content(out)
    return {
        "rows": {orjson.loads(line)["id"]: line for line in files["rows"]},
        "pairs": files["pairs"],
        "filter": files["filter"],
    }


class TestSamePairs:
    @pytest.mark.parametrize("kind", FILTERS)
    def test_pairs_rows_and_thresholds_are_those_of_all(
        self, kind: str, prompts: Path, tmp_path: Path
    ) -> None:
        whole = made(prompts, tmp_path / "all", "all", filter=FILTERS[kind])
        lean = made(prompts, tmp_path / "needed", "needed", filter=FILTERS[kind])
        assert len(whole["pairs"]) < PROMPTS and (whole["pairs"] or "paper" in kind)
        assert lean["pairs"] == whole["pairs"], "byte for byte"
        assert lean["filter"]["thresholds"] == whole["filter"]["thresholds"]
        assert lean["rows"].keys() == whole["rows"].keys()
        partial = {key for key, line in lean["rows"].items() if b"rest_not_asked" in line}
        assert partial
        assert all(lean["rows"][key] == whole["rows"][key] for key in lean["rows"].keys() - partial)
        for key in partial:
            known, everything = orjson.loads(lean["rows"][key]), orjson.loads(whole["rows"][key])
            assert known.pop("rest_not_asked") in lean["filter"]["dropped"]
            assert known.items() < everything.items(), "what is known is what `all` knows"
        assert lean["asked"]["score"] < whole["asked"]["score"]
        assert lean["asked"]["sample"] < whole["asked"]["sample"] == 3 * PROMPTS
        decision = lean["done"].decision
        assert decision.not_asked == len(partial) == sum(one.not_asked for one in decision.funnel)
        assert lean["filter"]["kept"] + sum(lean["filter"]["dropped"].values()) == PROMPTS

    def test_the_first_rows_and_two_percent_are_complete(
        self, prompts: Path, tmp_path: Path
    ) -> None:
        texts = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
        made(prompts, tmp_path / "needed", "needed")
        scores = load_scores(tmp_path / "needed", dry=True)
        manifest = json.loads((tmp_path / "needed" / "run.json").read_text())
        first = np.array([int(key, 16) for key in manifest["always_complete"]], np.uint64)
        assert len(first) == FIRST
        lines = scores.lines(np.flatnonzero(np.isin(scores.keys(), first)))
        asked = [orjson.loads(line)["prompt"][0]["content"] for line in lines]
        assert sorted(asked) == sorted(texts[:FIRST])
        assert not lacking(scores.rows[always_complete(scores.rows, first)]).any()

    def test_neither_order_nor_engine_size_changes_what_is_asked(
        self, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = made(prompts, tmp_path / "one", "needed")["rows"]
        monkeypatch.setattr(
            module, "start_engine", lambda *_, **__: FickleEngine(order=7, max_in_flight=2)
        )
        assert made(prompts, tmp_path / "two", "needed")["rows"] == rows

    def test_where_on_view_cells_are_scored_too(
        self, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "start_engine", lambda *_, **__: OtherScores())
        for kind in ("chain", "off, any length"):
            whole = made(prompts, tmp_path / f"all {kind}", "all", filter=FILTERS[kind])
            lean = made(prompts, tmp_path / f"needed {kind}", "needed", filter=FILTERS[kind])
            assert not json.loads((tmp_path / f"all {kind}" / "run.json").read_text())[
                "logprob_check"
            ]["agreed"]
            assert lean["pairs"] == whole["pairs"]
            assert lean["asked"]["score"] < whole["asked"]["score"]
            complete(
                tmp_path / f"needed {kind}",
                standing_config(tmp_path / f"needed {kind}", None, model=None),
                Silent(),
            )
            assert found_in(tmp_path / f"needed {kind}")["rows"] == whole["rows"]

    def test_where_the_rows_that_verify_fail_others_do(
        self, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every row that was to be complete fails: the check takes others, and nothing hangs."""

        class Refusing(FickleEngine):
            def _answer(self, request: Request) -> Result:
                self._refuses = lambda key: row_key(key.partition("/")[0]) in first
                return super()._answer(request)

        made(prompts, tmp_path / "one", "needed")
        manifest = json.loads((tmp_path / "one" / "run.json").read_text())
        first = {int(key, 16) for key in manifest["always_complete"]}
        monkeypatch.setattr(module, "start_engine", lambda *_, **__: Refusing())
        done = generate(str(prompts), tmp_path / "two", config("needed"), Silent())
        assert (done.account.rows, done.account.failed) == (PROMPTS - FIRST, FIRST)
        assert (
            found_in(tmp_path / "two")["rows"].items() < found_in(tmp_path / "one")["rows"].items()
        )

    def test_y0_is_looked_at_as_soon_as_it_is_there_and_texts_once_an_answer(
        self, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is y+ again in every row, and nothing else drops one."""

        class Same(HashEngine):
            def _answer(self, request: Request) -> Result:
                answer = super()._answer(request)
                if isinstance(answer, Sampled) and not request.key.endswith("bad"):
                    return replace(answer, token_ids=HELLO, total_nats=-4.0)
                return answer

        looked = Counter[str]()

        def flags(row: Row) -> Any:
            looked[row.id] += 1
            return flags_of(row)

        monkeypatch.setattr(module, "start_engine", lambda *_, **__: Same(refused=None))
        monkeypatch.setattr(columns, "flags_of", flags)
        rows = made(prompts, tmp_path / "run", "needed", filter={"steered": "off"})["rows"]
        lean = [orjson.loads(line) for line in rows.values() if b"rest_not_asked" in line]
        assert len(lean) > PROMPTS / 2 and "logp_plain_good" not in lean[0]
        assert {row["rest_not_asked"] for row in lean} == {"identical_chosen_original"}
        assert {looked[row["id"]] for row in lean} == {3} and set(looked.values()) == {1, 3}

    def test_a_response_is_asked_for_when_the_one_before_has_not_dropped_the_row(
        self, prompts: Path, tmp_path: Path
    ) -> None:
        """y-, its scores, y+, its scores: what a row has tells where it was dropped."""
        lean = made(prompts, tmp_path / "run", "needed", filter=FILTERS["chain"])
        sides = Counter[str]()
        for line in lean["rows"].values():
            row = orjson.loads(line)
            has = [side for side in ("rejected", "chosen", "original") if side in row]
            sides[has[-1]] += 1
            assert has == ["rejected", "chosen", "original"][: len(has)], "in this order"
            if has == ["rejected"]:
                assert row["rest_not_asked"] in ("truncated", "not_steered", "gap")
                assert row["rejected_finish_reason"] == "length" or "logp_good_bad" in row
            elif len(has) == 2:
                assert row["rejected_finish_reason"] == "stop"
                assert row["logp_bad_bad"] > max(row["logp_good_bad"], row["logp_plain_bad"])
        assert min(sides.values()) > 0 and len(sides) == 3
        samples = sides["rejected"] + 2 * sides["chosen"] + 3 * sides["original"]
        assert lean["asked"]["sample"] == samples

    def test_the_side_file_holds_what_the_lines_say(self, prompts: Path, tmp_path: Path) -> None:
        """The records that were filled while the rows were made, and those of the lines read."""
        for kind in ("chain", "contrast"):
            made(prompts, tmp_path / kind, "needed", filter=FILTERS[kind])
            filled = load_scores(tmp_path / kind, dry=True).rows
            for file in (tmp_path / kind / "rows").glob("*.scores"):
                file.unlink()
            assert filled.tobytes() == load_scores(tmp_path / kind, dry=True).rows.tobytes()
            assert 0 < np.count_nonzero(lacking(filled)) < PROMPTS - FIRST

    def test_the_orders_ask_for_every_cell_once(self) -> None:
        from sso_data.core.records import NEEDED_CELLS, ON_VIEW

        for order in ORDER.values():
            assert sorted(order) == sorted({*NEEDED_CELLS} - {*ON_VIEW} | {("plain", "plain")})


class TestComplete:
    @pytest.fixture
    def lean(self, prompts: Path, tmp_path: Path) -> Path:
        made(prompts, tmp_path / "lean", "needed")
        return tmp_path / "lean"

    def test_everything_ends_as_with_all(self, lean: Path, prompts: Path, tmp_path: Path) -> None:
        whole = made(prompts, tmp_path / "all", "all")
        before = found_in(lean)
        lacked = sum(b"rest_not_asked" in line for line in before["rows"].values())
        done = complete(lean, standing_config(lean, None, model=None), Silent())
        assert done.rows == lacked
        assert found_in(lean) == {key: whole[key] for key in ("rows", "pairs", "filter")}
        FickleEngine.asked.clear()
        again = complete(lean, standing_config(lean, None, model=None), Silent())
        assert (again.rows, FickleEngine.asked.total()) == (0, 0)
        for setting in ("filter.steered=contrast", "filter.preset=none"):
            kept = [
                set(load_scores(run, dry=True).keys()[refiltered(run, setting).kept])
                for run in (lean, tmp_path / "all")
            ]
            assert kept[0] == kept[1]

    def test_a_filter_names_it_and_it_makes_exactly_what_that_filter_needs(
        self, lean: Path, prompts: Path, tmp_path: Path
    ) -> None:
        settings = ["filter.steered=off", "filter.drop_truncated=false"]
        before = found_in(lean)
        with pytest.raises(RunError) as refused:
            refilter(lean, run_config(lean, settings, preset=None), Silent())
        said = str(refused.value)
        flags = " ".join(f"--set {one}" for one in sorted(settings, reverse=True))
        assert "\n" not in said and f"`sso-data complete {lean} {flags}` makes them" in said
        count = int(said.partition(": ")[2].partition(" of ")[0])
        assert found_in(lean) == before
        done = complete(lean, standing_config(lean, settings, model=None), Silent(), asked=True)
        after = found_in(lean)
        assert done.rows == count
        lacked, lacks = (
            {key for key, line in found["rows"].items() if b"rest_not_asked" in line}
            for found in (before, after)
        )
        assert lacks < lacked and len(lacked - lacks) == count
        whole = made(prompts, tmp_path / "all", "all", filter=FILTERS["off, any length"])
        assert after["pairs"] == whole["pairs"]
        assert all(after["rows"][key] == whole["rows"][key] for key in lacked - lacks)

    def test_a_changed_line_is_refused_before_the_work_and_each_time(self, lean: Path) -> None:
        part = lean / "rows" / "00000.jsonl"
        lines = part.read_bytes().splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines[1:-1], 1) if b"rest_not_asked" not in line)
        lines[at] = lines[at].replace(b'"seed_plain":', b'"seed_plain":1', 1)
        part.write_bytes(b"".join(lines))
        FickleEngine.asked.clear()
        for _ in range(2):
            with pytest.raises(RunError, match=rf"00000\.jsonl:{at + 1}: was changed"):
                complete(lean, standing_config(lean, None, model=None), Silent())
            assert FickleEngine.asked.total() == 0

    def test_a_row_that_the_engine_refuses_stays_as_it_is(
        self, lean: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = found_in(lean)["rows"]
        lacking_ids = [key for key, line in before.items() if b"rest_not_asked" in line]

        class Refusing(FickleEngine):
            def _answer(self, request: Request) -> Result:
                self._refuses = lambda key: key.startswith(f"{lacking_ids[0]}/")
                return super()._answer(request)

        monkeypatch.setattr(module, "start_engine", lambda *_, **__: Refusing())
        done = complete(lean, standing_config(lean, None, model=None), Silent())
        assert [failure.id for failure in done.refused] == lacking_ids[:1]
        after = found_in(lean)["rows"]
        assert after[lacking_ids[0]] == before[lacking_ids[0]]
        assert sum(b"rest_not_asked" in line for line in after.values()) == 1

    def test_merged_runs_keep_their_gaps_and_are_completed(
        self, prompts: Path, tmp_path: Path
    ) -> None:
        whole = made(prompts, tmp_path / "all", "all")
        for shard in ("1/2", "2/2"):
            source = {"shard": shard}
            generate(str(prompts), tmp_path / shard[0], config("needed", source=source), Silent())
        out = tmp_path / "merged"
        merge([tmp_path / "1", tmp_path / "2"], out, Silent())
        assert found_in(out)["pairs"] == whole["pairs"]
        assert len(json.loads((out / "run.json").read_text())["always_complete"]) == 2 * FIRST
        complete(out, standing_config(out, None, model=None), Silent())
        assert found_in(out)["rows"] == whole["rows"]

    def test_a_check_of_a_principle_is_asked_of_rows_that_stand_for_all(
        self, lean: Path, tmp_path: Path
    ) -> None:
        checked = tmp_path / "checked"
        shutil.copytree(LONG, checked)
        for file in checked.glob("*.yaml"):
            file.write_text(f"{file.read_text()}\ncheck: {{max_words: 1}}\n")
        manifest = json.loads((lean / "run.json").read_text())
        manifest["config"]["principles"] = str(checked)
        write_json(lean / "run.json", manifest)
        scores = load_scores(lean, dry=True)
        for_all = set(representative(scores.rows)["key"].tolist())
        kept = {orjson.loads(line)["id"] for line in found_in(lean)["pairs"]}
        better: dict[tuple[str, str], list[float]] = defaultdict(list)
        for line in found_in(lean)["rows"].values():
            row = orjson.loads(line)
            shares = [1 / max(1, len(row[side][0]["content"].split())) for side in sides_of(row)]
            for name in row["principles"]:
                if row_key(row["id"]) in for_all:
                    better[name, "all"].append(0.5 + np.sign(shares[0] - shares[1]) / 2)
                if row["id"] in kept:
                    better[name, "kept"].append(0.5 + np.sign(shares[0] - shares[1]) / 2)
        for one in principle_stats(lean):
            for found, which in ((one.signal, "all"), (one.signal_kept, "kept")):
                own = better[one.principle, which]
                assert found == (pytest.approx(np.mean(own)) if own else None)
        assert len(for_all) < PROMPTS and better

    def test_other_rooms_cope_with_what_was_not_asked(self, lean: Path, tmp_path: Path) -> None:
        rows = [orjson.loads(line) for line in found_in(lean)["rows"].values()]
        with_original = sum("original" in row for row in rows)
        exported = export(lean, "alpaca-eval", tmp_path / "plain", drawn="plain", name="m")
        assert exported.rows == PROMPTS and exported.exported == with_original < PROMPTS
        assert exported.skipped["not_asked_for"] == PROMPTS - with_original
        (note,) = (one for one in exported.notes if "left out" in one or "no such answer" in one)
        assert note.startswith(f"{PROMPTS - with_original} of {PROMPTS} rows have no such answer")
        scores = load_scores(lean, dry=True)
        whole = scores.keys()[scores.rows["flags"] & Flag.ALWAYS_COMPLETE != 0]
        for one in principle_stats(lean):
            own = [row for row in rows if one.principle in row["principles"]]
            gaps = [
                (row["logp_good_good"] - row["logp_bad_good"]) / row["chosen_num_tokens"]
                for row in own
                if row_key(row["id"]) in whole
            ]
            assert one.rows == len(own) and (gaps or one.gap_good is None)
            assert not gaps or one.gap_good == pytest.approx(np.mean(gaps)), "not those that passed"
        chosen = export(lean, "alpaca-eval", tmp_path / "good", drawn="good", name="m")
        assert with_original < chosen.exported == sum("chosen" in row for row in rows) < PROMPTS
        again = generate(str(tmp_path / "prompts.jsonl"), lean, config("needed"), Silent())
        assert again.counts.rows == 0


def sides_of(row: dict[str, Any]) -> list[str]:
    return [side for side in ("chosen", "rejected") if side in row]


def refiltered(run: Path, setting: str) -> Decision:
    return refilter(run, run_config(run, [setting], preset=None), dry_run=True).decision


def some(tree: dict[int, Any], most: int) -> Iterator[Any]:
    values = list(tree.values())
    for place in np.linspace(0, len(values) - 1, most).round().astype(int):
        yield values[place]


class TestKilled:
    """At 20 moments spread over all that the command writes; the same command ends the same."""

    def test_generate(self, prompts: Path, tmp_path: Path) -> None:
        expected = made(prompts, tmp_path / "whole", "needed")
        root = tmp_path / "root"
        root.mkdir()
        recorder = Recorder(root)
        with in_place_of_os(recorder):
            made(prompts, root / "run", "needed")
        for number, (when, tree) in enumerate(some(recorder.deaths, 20)):
            at = plant(tree, tmp_path / f"dead-{number}")
            generate(str(prompts), at / "run", config("needed"), Silent())
            found = found_in(at / "run")
            assert {key: expected[key] for key in found} == found, when

    def test_complete(self, prompts: Path, tmp_path: Path) -> None:
        whole = made(prompts, tmp_path / "all", "all")
        root = tmp_path / "root"
        root.mkdir()
        made(prompts, root / "run", "needed")
        recorder = Recorder(root)
        resolved = standing_config(root / "run", None, model=None)
        with in_place_of_os(recorder):
            complete(root / "run", resolved, Silent())
        for number, (when, tree) in enumerate(some(recorder.deaths, 20)):
            at = plant(tree, tmp_path / f"dead-{number}") / "run"
            complete(at, standing_config(at, None, model=None), Silent())
            found = found_in(at)
            assert {key: whole[key] for key in found} == found, when
            assert not (at / "completed").exists()
            assert not any(path.name.endswith(".tmp") for path in (at / "rows").iterdir())


def test_seeds_are_those_of_the_row(prompts: Path, tmp_path: Path) -> None:
    """y0 of a completed row comes from the seed that the row has held from the start."""
    made(prompts, tmp_path / "lean", "needed")
    for line in found_in(tmp_path / "lean")["rows"].values():
        row = orjson.loads(line)
        for view in VIEWS:
            assert row[f"seed_{view}"] == derive_seed(0, row["id"], view)
