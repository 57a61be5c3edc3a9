"""`steering.jsonl`: cut anywhere it goes on, found lines are those written, in little memory."""

import random
from collections import Counter
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow, Prompt
from sso_data.runs.ledger import SEEN, KeyTable, Ledger
from sso_data.runs.run import open_run
from sso_data.runs.steering import FILE, SteeringStore, read_steering
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.passes import Guide, Models, steer_all
from tests.steering.scripted import Scripted, prompt, rules
from tests.steering.test_by_model import shaky

PROMPTS = [prompt(f"Question number {number // 2}: why?", number % 2) for number in range(12)]
BOTH = rules(choose="policy", principles="written")


def run(directory: Path, prompts: list[Prompt] = PROMPTS) -> tuple[Scripted, SteeringCounts]:
    """Steer the prompts that have no line yet, as a command would."""
    model, tally = Scripted(shaky), SteeringCounts()
    with closing(SteeringStore(directory, on_line=tally.add)) as store:
        guide = Guide(prompts=lambda: prompts, store=store, counts=tally)
        models = Models(open_policy=lambda: model, is_control=lambda text: False)
        for _ in steer_all(guide, BOTH, models):
            pass
    return model, tally


def lines(directory: Path) -> dict[str, JsonRow]:
    """The lines by prompt, without who asked first; each prompt has one."""
    found = [line for _, line in read_steering(directory)]
    assert max(Counter(line["id"] for line in found).values()) == 1
    return {line["id"]: {k: v for k, v in line.items() if k != "written"} for line in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    run(directory)
    return directory


def test_a_second_run_asks_nothing_and_changes_nothing(whole: Path) -> None:
    before = (whole / FILE).read_bytes()
    model, tally = run(whole)
    assert model.asked == []
    assert (whole / FILE).read_bytes() == before
    assert tally.prompts == len(PROMPTS)


def test_cut_anywhere_it_goes_on(whole: Path, tmp_path: Path) -> None:
    """After every line, one byte before and behind, and in the middle of lines."""
    data = (whole / FILE).read_bytes()
    expected = lines(whole)
    ends = [n + 1 for n, byte in enumerate(data) if byte == 0x0A]
    rng = random.Random(3)
    cuts = {0, 1, *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}
    cuts |= {rng.randrange(len(data)) for _ in range(12)}
    for cut in sorted(cuts):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / FILE).write_bytes(data[:cut])
        kept = data[:cut].count(b"\n")
        model, tally = run(directory)
        assert lines(directory) == expected, cut
        assert tally.prompts == len(PROMPTS)
        assert (directory / FILE).read_bytes().startswith(data[: (0, *ends)[kept]])
        assert len({one.key for one in model.asked}) == len(model.asked), "nothing twice"


def test_holes_of_a_power_failure_are_asked_for_again(whole: Path, tmp_path: Path) -> None:
    data = bytearray((whole / FILE).read_bytes())
    start = data.index(b"\n") + 10
    data[start : start + 64] = bytes(64)
    (tmp_path / FILE).write_bytes(bytes(data))
    run(tmp_path)
    assert lines(tmp_path) == lines(whole)


@pytest.mark.parametrize("line", ["{}", "[1]", "x", '{"id": 3, "kind": "choice"}', '{"id": "a"}'])
def test_a_line_that_is_none_of_ours_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{line}\n")
    with pytest.raises(RunError, match=r"steering\.jsonl:1: not a valid line; remove it"):
        SteeringStore(tmp_path, on_line=lambda found: None)


def line(row: str, kind: str = "steering", **written: JsonRow) -> JsonRow:
    return {"kind": kind, "id": row, "principles": list(written), "written": written}


def test_lines_are_found_by_kind_and_row_and_texts_by_content(tmp_path: Path) -> None:
    asked: JsonRow = {"by": "policy", "attempts": []}
    taken: JsonRow = {"by": "policy", "as": "c-0"}
    written = [
        line("c-0", Safety=asked),
        line("c-1", Safety=taken, Accuracy=asked),
        line("c-2", "choice"),
        line("d-5", Safety=asked),
    ]

    def check(store: SteeringStore) -> None:
        assert store.find("steering", "c-1") == written[1]
        assert store.find("choice", "c-2") == written[2]
        assert store.find("steering", "c-2") is None
        assert store.written("c", "Safety") == written[0]
        assert store.written("c", "Accuracy") == written[1]
        assert store.written("d", "Safety") == written[3]
        assert store.written("d", "Accuracy") is None
        assert store.written("e", "Safety") is None

    with closing(SteeringStore(tmp_path, on_line=lambda found: None)) as store:
        for one in written:
            store.add(one)
        check(store)
    found: list[JsonRow] = []
    with closing(SteeringStore(tmp_path, on_line=found.append)) as store:
        check(store)
        later = line("c-0", Safety=asked) | {"newer": True}
        store.add(later)
        assert store.find("steering", "c-0") == later
    assert found == written


def test_the_index_takes_at_most_forty_bytes_a_line() -> None:
    rng = random.Random(1)
    places, keys = KeyTable("Q"), [rng.getrandbits(64) for _ in range(30_000)]
    worst = 0.0
    for number, key in enumerate(keys, start=1):
        places.put(key, number)
        if number > 2000:
            worst = max(worst, places.__sizeof__() / number)
    assert worst <= 40
    assert len(places) == len(keys)
    assert [places.get(key) for key in keys] == list(range(1, len(keys) + 1))
    places.put(keys[7], 99)
    assert places.get(keys[7]) == 99
    assert len(places) == len(keys)
    assert places.get(rng.getrandbits(64)) == 0


def test_ids_are_those_that_the_run_gives(tmp_path: Path) -> None:
    rng = random.Random(2)
    contents = [f"{rng.choice('abcdefgh')}" * 20 for _ in range(300)] + ["z" * 20] * 40
    rng.shuffle(contents)
    occurrences = Ledger()
    with open_run(
        tmp_path / "run", identity={}, details={"config": {}, "date": "2026-01-01"}
    ) as run_:
        for content in contents:
            assert occurrences.next_id(content) == run_.admit(content)[0][0]
        assert run_.ledger.count(SEEN) == len(contents)


def test_overwriting_a_run_forgets_what_models_said(tmp_path: Path) -> None:
    details = {"config": {}, "date": "2026-01-01"}
    with open_run(tmp_path / "run", identity={"a": 1}, details=details):
        run(tmp_path / "run", PROMPTS[:2])
    with open_run(tmp_path / "run", identity={"a": 2}, details=details, overwrite=True):
        assert not (tmp_path / "run" / FILE).exists()


def test_a_line_of_a_later_format_is_refused(whole: Path, tmp_path: Path) -> None:
    line = {"id": "x-0", "kind": "choice", "schema_version": 99, "sso_data": "9.0"}
    (tmp_path / FILE).write_bytes((whole / FILE).read_bytes() + orjson.dumps(line) + b"\n")
    with pytest.raises(RunError, match=r"has format 99 of sso-data 9\.0.*upgrade sso-data"):
        run(tmp_path)
