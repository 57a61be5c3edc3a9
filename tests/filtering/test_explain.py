"""Explanations of few pairs, over a corpus of journals: what is advised does what it says."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.config.run import FilterConfig, RunConfig
from sso_data.core.records import ALL_CELLS, Cell, Row, Steering
from sso_data.exporting.export import export
from sso_data.filtering.explain import effect_of, explain, features_of
from sso_data.filtering.filters import decide
from sso_data.filtering.refilter import doubt_about, why_nothing
from sso_data.generation import generate as generation
from sso_data.runs.columns import encode
from tests.exporting.making import make_run
from tests.factories import STRICT, encode_rows, make_row, strict

DEFAULT = strict()
PLAIN_IS_LOWEST: dict[Cell, float | None] = {("plain", "good"): -2.2, ("plain", "bad"): -2.2}
"""Contrast holds on both sides, and no chain does."""


def steered(feature: str) -> Steering:
    return Steering(features=(feature,), good=("a",), bad=("b",), chosen_by="random")


def noise(index: int, spread: float = 0.5) -> dict[Cell, float | None]:
    """Means that know nothing of the views: y+ and y- are exchangeable."""
    drawn = np.random.default_rng(index).normal(-1, spread, 9)
    return dict(zip(ALL_CELLS, drawn.tolist(), strict=True))


def no_effect() -> list[Row]:
    return [make_row(i, means=noise(i)) for i in range(42)]


def placebo() -> list[Row]:
    """The texts move the model (contrast .85), whatever they are about."""
    rows = [make_row(i, means=PLAIN_IS_LOWEST) for i in range(34)]
    return rows + [make_row(i, means=noise(i)) for i in range(34, 40)]


def truncated() -> list[Row]:
    """Most rows are cut off; the others are kept by contrast alone."""
    cut = [make_row(i, finish={"plain": "length"}) for i in range(34)]
    return cut + [make_row(i, means={("plain", "good"): -2.1}) for i in range(34, 40)]


def cut_off_and_not_steered() -> list[Row]:
    """Longer answers would not help: every row is dropped anyway."""
    means: dict[Cell, float | None] = {("bad", "bad"): -2.5}
    rows = [make_row(i, finish={"plain": "length"}, means=means) for i in range(38)]
    return rows + [make_row(i, means={("good", "good"): -2.5}) for i in range(38, 40)]


def off_policy() -> list[Row]:
    return [make_row(i, means={("plain", "bad"): -1.3 - i / 100}) for i in range(40)]


def far_off() -> list[Row]:
    """Steered, and so far from the policy's own answers that the default drops them, too."""
    means: dict[Cell, float | None] = {("plain", "bad"): -2.5, ("good", "bad"): -3.0}
    return [make_row(i, means=means) for i in range(40)]


def too_far() -> list[Row]:
    """Steered, and 3 nats/token from the policy's own answers."""
    means: dict[Cell, float | None] = {("plain", "bad"): -4.0, ("good", "bad"): -5.0}
    return [make_row(i, means=means) for i in range(40)]


def few_and_too_far() -> list[Row]:
    return too_far()[:5]


def one_bad_principle() -> list[Row]:
    far: dict[Cell, float | None] = {("plain", "good"): -1.5}
    good = [make_row(i, means=far, steering=steered("Concision")) for i in range(16)]
    return good + [
        make_row(i, means=noise(i, 0.2), steering=steered("Safety")) for i in range(16, 46)
    ]


def no_gap() -> list[Row]:
    """Steered, but the views differ by less than the default gap."""
    level: dict[Cell, float | None] = {}
    for own, other in (("good", "bad"), ("bad", "good")):
        level |= {(own, own): -1.0, ("plain", own): -1.01, (other, own): -1.02}  # type: ignore[dict-item]
    return [make_row(i, means=level) for i in range(40)]


def all_steered() -> list[Row]:
    return [make_row(i) for i in range(40)]


CORPUS: dict[str, Callable[[], list[Row]]] = {
    made.__name__: made
    for made in (no_effect, placebo, truncated, cut_off_and_not_steered, off_policy)
} | {made.__name__: made for made in (far_off, too_far, few_and_too_far, one_bad_principle)}
CORPUS |= {made.__name__: made for made in (no_gap, all_steered)}
ADVISED = {"placebo": "steered=contrast", "truncated": "drop_truncated=false"}
ADVISED |= {
    "off_policy": "closeness_offset=",
    "far_off": "closeness",
    "no_gap": "gap=",
    "one_bad_principle": "closeness_offset=",
}
"""What helps in each journal; nothing does in the others."""


def invoke(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


DEFAULTS = [f"filter.{key}={getattr(FilterConfig(), key)}" for key in STRICT]


@pytest.mark.parametrize("settings", [[], DEFAULTS], ids=["strict", "default"])
@pytest.mark.parametrize("name", CORPUS)
def test_every_step_does_what_it_says(name: str, settings: list[str], tmp_path: Path) -> None:
    """Each printed command keeps as many rows as it says, and more than the one before."""
    rows = CORPUS[name]()
    run = make_run(tmp_path / "run", rows, settings=settings)
    shown = CliRunner().invoke(app, ["filter", str(run), "--dry-run"])
    steps = [line for line in shown.stderr.splitlines() if line.startswith("try: ")]
    before = invoke("filter", run, "--dry-run")["kept"]
    if settings:
        assert bool(steps) == (name in ("far_off", "truncated")), shown.stderr
    else:
        assert (before < len(rows) / 5) == (name != "all_steered")
        assert (name in ADVISED) == bool(steps), shown.stderr
    assert not steps or ADVISED[name] in steps[-1]
    for line in steps:
        command, _, said = line.removeprefix("try: ").partition(" (tried: keeps ")
        kept = invoke(*shlex.split(command)[1:])["kept"]
        assert said == f"{kept} of {len(rows)} rows)" and kept > before
        before = kept


def test_a_step_names_everything_that_differs_from_the_run(tmp_path: Path) -> None:
    """`filter` starts from the run's own settings, whatever was asked for before."""
    run = make_run(tmp_path / "run", placebo())
    strict = ["--set", "filter.steered=contrast", "--set", "filter.max_tokens=8"]
    shown = CliRunner().invoke(app, ["filter", str(run), "--set", "filter.gap=2.5", *strict])
    line = [line for line in shown.stderr.splitlines() if line.startswith("try: ")][-1]
    command, _, said = line.removeprefix("try: ").partition(" (tried: keeps ")
    assert "steered=contrast" in command and "max_tokens=8" in command
    assert said == f"{invoke(*shlex.split(command)[1:])['kept']} of 40 rows)"
    gaps = [make_row(i, means={("bad", "good"): -0.6}) for i in range(20)]
    run = make_run(tmp_path / "gaps", gaps, settings=["filter.gap=0.5"])
    assert "--set filter.gap=0.1" in why_nothing(run)


def text_of(name: str) -> str:
    rows = CORPUS[name]()
    features = features_of(row.steering.features for row in rows)
    return explain(encode_rows(rows), DEFAULT, features=features).text(command="C")


def test_no_effect_is_said_and_nothing_is_loosened() -> None:
    text = text_of("no_effect")
    assert "no effect shown: contrast in " in text and "preview PROMPTS -n 32 --summary" in text
    assert "try:" not in text and "closeness" not in text


def test_texts_that_move_are_not_called_good_pairs() -> None:
    """Placebo texts move a model, too."""
    text = text_of("placebo")
    assert "the texts move this model: contrast in 3" in text
    assert "whether towards better answers, a judge or a checkable principle tells" in text
    assert "signal" not in text


def test_what_may_help_another_run_is_named_and_not_said_to_be_tried() -> None:
    text = text_of("no_effect")
    told = text[text.index("What may, in another run") :]
    assert "measured on one small model, docs/principles.md; none of it was tried here" in told
    for key in ("steering.placement=user", "steering.count=1", "--principles short or checkable"):
        assert key in told
    assert "(tried" not in text and "a reader can check" in told


@pytest.mark.parametrize("name", ["too_far", "few_and_too_far"])
def test_responses_far_from_the_policy_get_no_threshold(name: str) -> None:
    rows = encode_rows(CORPUS[name]())
    text = text_of(name)
    assert (
        f"{len(rows)} of the {len(rows)} rows that reach off_policy hold a response that is far "
        "from what the model says by itself, by more than 2 nats a token; no threshold is proposed"
    ) in text
    assert "try:" not in text and "filter.closeness" not in text
    found = explain(rows, DEFAULT)
    assert found.far and found.effect.verdict == ("moves" if name == "too_far" else "too_few")
    assert ("32 rows are enough to tell" in text) == (name == "few_and_too_far")
    assert "far from what the model says by itself" in found.next_step(command="C")
    assert "no filter setting that was tried" not in text


def test_a_threshold_is_of_the_rows_within_two_nats() -> None:
    """Of 40 rows 12 are far: four in five of the others are kept, and the 12 by no step."""
    rows = encode_rows([*far_off()[:28], *too_far()[28:]])
    found = explain(rows, DEFAULT)
    assert found.steps[-1].kept == 28 and not found.far
    assert "filter.closeness=1.0" in found.steps[-1].settings
    rows = encode_rows([*far_off()[:19], *too_far()[19:]])
    assert explain(rows, DEFAULT).steps == () and explain(rows, DEFAULT).far
    wide = strict(closeness=2.5, closeness_offset=0.5)
    found = explain(encode_rows(far_off()[:4] + too_far()[4:]), wide)
    assert found.steps == () and found.far and found.far.dropped == 36


@pytest.mark.parametrize(("steered", "steps"), [(2, 0), (3, 1)])
def test_at_too_few_rows_a_step_keeps_mostly_contrast(steered: int, steps: int) -> None:
    """Five rows that were cut off, under a filter without a steering test."""
    weak: dict[Cell, float | None] = {("bad", "bad"): -2.5}
    rows = [
        make_row(i, finish={"plain": "length"}, means={} if i < steered else weak) for i in range(5)
    ]
    found = explain(encode_rows(rows), FilterConfig(preset="none"))
    assert found.effect.verdict == "too_few" and found.kept == 0
    assert len(found.steps) == steps
    told = f"too few rows to show an effect: contrast in {steered} rows, reverse in 0, of 5; "
    assert found.next_step().startswith(told)
    assert ("32 rows are enough" in found.next_step()) == (steps == 0)


def test_longer_answers_are_advised_only_where_they_help() -> None:
    assert "sampling.max_tokens" in text_of("truncated")
    assert "max_tokens" not in text_of("cut_off_and_not_steered")


def test_a_principle_without_effect_is_named() -> None:
    text = text_of("one_bad_principle")
    assert "principle Safety: no effect shown" in text and "principle Concision" not in text
    assert "without Safety the same filter keeps 0 of 16 rows" in text


def test_the_side_that_fails_is_named() -> None:
    weak: dict[Cell, float | None] = {("good", "bad"): -0.4}  # y- is likelier under good
    found = explain(encode_rows([make_row(i, means=weak) for i in range(32)]), DEFAULT)
    assert found.failing == "y-" and found.shares == [[1, 1, 1], [1, 0, 0]]
    assert "y- fails more often: the bad texts" in found.text()
    assert found.differences[1] == pytest.approx([0.625, -0.725, -0.1])
    assert found.effect.verdict == "none" and found.effect.p == 1
    assert effect_of(encode_rows([make_row(i, means=weak) for i in range(31)])).verdict == "too_few"


def test_the_effect_by_hand() -> None:
    """9 against 3: p = 2 (1 + 12 + 66 + 220) / 4096."""
    wrong: dict[Cell, float | None] = {("good", "good"): -2.5, ("bad", "bad"): -2.5}
    rows = [make_row(i) for i in range(9)] + [make_row(i, means=wrong) for i in range(9, 12)]
    rows += [make_row(12, means={("good", "good"): None}), make_row(13, tokens={"bad": 0})]
    effect = effect_of(encode_rows(rows))
    assert (effect.rows, effect.contrast, effect.reverse) == (12, 9, 3)
    assert effect.p == pytest.approx(598 / 4096) and effect.is_missing
    assert effect_of(encode_rows(rows[:9])).p == pytest.approx(2 / 2**9)
    assert effect_of(encode_rows(rows[:9])).verdict == "moves"
    assert effect_of(encode_rows(rows[:5])).verdict == "too_few"
    backwards = [make_row(i, means=wrong) for i in range(9)]
    assert effect_of(encode_rows(backwards)).verdict == "reversed"
    text = explain(encode_rows(backwards), DEFAULT).text()
    assert "the wrong way: contrast in 0 rows, reverse in 9" in text
    assert "opposite to the one" in text and "try:" not in text and "--principles short" not in text


def test_the_binding_test_is_the_one_that_divides_most() -> None:
    """Of 41 rows 37 are not steered, and 3 of the 4 left are too far: 41 to 4, and 4 to 1."""
    rows = [make_row(i, means={("bad", "good"): -0.9}) for i in range(37)]
    rows += [make_row(i, means={("plain", "good"): -1.5}) for i in range(37, 40)] + [make_row(40)]
    binding = explain(encode_rows(rows), DEFAULT).binding
    assert binding is not None
    assert (binding.reason, binding.dropped, binding.reached) == ("not_steered", 37, 41)


def test_the_binding_test_need_not_be_the_one_that_drops_most() -> None:
    rows = [make_row(i, finish={"good": "length"}) for i in range(48)]
    rows += [make_row(i, means={("plain", "good"): -1.5}) for i in range(48, 60)]
    found = explain(encode_rows(rows), DEFAULT)
    assert found.largest is not None and found.binding is not None
    assert (found.largest.reason, found.binding.reason) == ("truncated", "off_policy")
    assert (
        "most are lost at truncated (48 of 60), but the binding test is off_policy: it drops 12 "
        "of the 12 rows that reach it"
    ) in found.text()


def test_many_pairs_need_one_line() -> None:
    found = explain(encode_rows([make_row(i) for i in range(8)]), DEFAULT)
    assert found.steps == () and found.text().count("\n") == 0
    assert found.prediction.startswith("8 of 8 rows would be kept: expect 100% [68%, 100%]")
    assert explain(encode_rows([]), DEFAULT).text() == ""


def test_rows_without_scores_are_explained_too() -> None:
    found = explain(encode_rows([make_row(i, tokens={"good": 0}) for i in range(3)]), DEFAULT)
    assert found.effect.rows == 0 and math.isnan(found.shares[0][0])
    assert "most are lost at empty: 3 of the 3 rows" in found.text()


class Heard:
    """A listener that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_hardly_any_of_the_first_rows_kept_is_warned_about_once() -> None:
    bad = encode(make_row(means=PLAIN_IS_LOWEST), b"", 0)
    good = encode(make_row(), b"", 0)
    listener = Heard()
    kept = generation._FirstRows(RunConfig(filter=DEFAULT), listener)  # type: ignore[arg-type]
    for number in range(200):
        kept.add(bad, number, ("Safety",))
        assert len(listener.warnings) == (number >= 63)
    assert "of the first 64 rows\nno pairs: 0 of 64 rows" in listener.warnings[0]
    assert "--set filter.steered=contrast" in listener.warnings[0]
    few = generation._FirstRows(RunConfig(filter=DEFAULT), listener)  # type: ignore[arg-type]
    for number, record in enumerate((good, good, *[bad] * 100)):  # 2 of the first 64 are 3 %
        few.add(record, number, ())
    assert len(listener.warnings) == 1 and few.share == pytest.approx(2 / 102)
    few.add(good, 103, ())
    assert few.share == pytest.approx(2 / 102), "decided by dozens"
    few.decide()
    assert few.share == pytest.approx(3 / 103), "and all at the end"


def test_the_first_rows_name_a_principle_without_effect() -> None:
    rows = one_bad_principle()
    listener = Heard()
    first = generation._FirstRows(RunConfig(filter=DEFAULT), listener)  # type: ignore[arg-type]
    for number, row in enumerate([*rows, *rows[:16], *rows[16:18]]):
        first.add(encode(row, b"", 0), number, row.steering.features)
    assert "principle Safety: no effect shown" in listener.warnings[0]
    assert "principle Concision" not in listener.warnings[0]


def test_training_and_exports_hear_it(tmp_path: Path) -> None:
    assert doubt_about("") is None and doubt_about(str(tmp_path)) is None
    run = make_run(tmp_path / "none", no_effect())
    doubt = doubt_about(str(make_run(tmp_path / "kept", no_effect(), settings=LOOSE)))
    assert doubt is not None and "no effect shown" in doubt
    assert export(tmp_path / "kept", "trl", tmp_path / "out").notes[-1] == f"warning: {doubt}"
    assert doubt_about(str(make_run(tmp_path / "good", [make_row(i) for i in range(9)]))) is None
    assert "no filter setting helps" in why_nothing(run)
    assert why_nothing(make_run(tmp_path / "blank", [])).startswith(
        "the run has no row yet: its failed.jsonl"
    )
    some = make_run(tmp_path / "some", [*placebo(), make_row(50)])
    doubt = doubt_about(str(some))
    effect = "the texts move this model: contrast in 38 rows, reverse in 2, of 41; "
    command = f"sso-data filter {some}"
    assert doubt is not None and doubt.startswith(
        f"{some}: few pairs, 1 of 41 rows are kept; {effect}`{command} --set filter."
    )
    assert doubt.endswith(f" (tried); `{command} --dry-run` explains") and "\n" not in doubt
    (some / "rows" / "00000.jsonl").write_text("{}\n")
    assert doubt_about(str(some)) is None, "whoever needs the line reports it"
    far = make_run(tmp_path / "far", placebo())
    kept = decide(
        encode_rows(placebo()), strict(steered="contrast", closeness_offset=5, closeness=0.75)
    ).kept
    assert f"keeps {len(kept)} of 40 rows (tried)" in why_nothing(far)


LOOSE = ("filter.steered=off", "filter.closeness=9.0", "filter.gap=0")


def test_the_command_that_explains_repeats_the_decision_that_stands(tmp_path: Path) -> None:
    """`filter --dry-run` alone starts from the run's own settings; and a path may need quotes."""
    rows = [*placebo(), *(make_row(i) for i in range(50, 56))]
    run = make_run(tmp_path / "a run", rows, settings=LOOSE)
    assert doubt_about(str(run)) is None
    invoke("filter", run, "--set", "filter.steered=chain")
    doubt = doubt_about(str(run))
    assert doubt is not None
    command = doubt.split("`")[-2]
    assert command == f"sso-data filter '{run}' --set filter.steered=chain --dry-run"
    found = invoke(*shlex.split(command)[1:])
    assert found["kept"] == 6 and "few pairs, 6 of 46" in doubt
    assert doubt.count("contrast in ") == 1


def test_a_key_that_the_preset_ignores_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [make_row()], settings=["filter.gap=0.1"])
    invoke("filter", run, "--preset", "reference")  # the run's own gap was not asked for here
    for preset, key in (("reference", "gap=0.1"), ("none", "closeness=1"), ("none", "steered=off")):
        settings = ["--set", f"filter.preset={preset}", "--set", f"filter.{key}"]
        done = CliRunner().invoke(app, ["filter", str(run), *settings])
        assert done.exit_code == 1
        name = key.partition("=")[0]
        assert f"filter.{name} has no effect with filter.preset {preset}" in done.stderr
    assert RunConfig(filter=FilterConfig(preset="none")).filter.steering_test == "off"


def test_a_setting_without_a_command_stands_after_one_space() -> None:
    """`preview` has no run to filter, and `iterate` its own names."""
    found = explain(encode_rows(truncated()), DEFAULT)
    assert "\ntry: --set filter." in found.text()
    text = found.text(prefix="generate.")
    assert "\ntry: --set generate.filter." in text and "rows; with a new --out)" in text
    assert found.next_step(prefix="generate.").endswith(" rows (tried; with a new --out)")
    assert "\ntry: C --set filter." in found.text(command="C")
