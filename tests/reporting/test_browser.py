"""The page in headless Chromium, opened from disk: what it shows, by keyboard, and asks nobody."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sso_data.cli.rows import visible
from sso_data.core.records import SIDE_OF, VIEWS, Cell, Row, View
from sso_data.filtering.measures import verdict_on
from sso_data.filtering.refilter import refilter, run_config
from sso_data.filtering.selection import select
from sso_data.reporting.compare import compare
from sso_data.reporting.page import report
from sso_data.runs.journal import load_scores
from sso_data.runs.tokens import Tokens
from tests.factories import make_row
from tests.reporting.conftest import HOSTILE, Make, rows_of_all_kinds
from tests.reporting.test_server import serving

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page with everything that it said and asked for."""

    def __init__(self, browser: Any, url: str, width: int = 1440, scheme: str = "light") -> None:
        size = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]")

    def shows(self, text: str) -> None:
        """Wait until the opened row shows a text."""
        self.page.wait_for_function(
            "text => document.getElementById('detail').innerText.includes(text)", arg=text
        )


@pytest.fixture
def url(make_run: Make, tmp_path: Path) -> str:
    long = make_row(12, texts={"good": "A" * 5000, "bad": "word " * 20_000})
    rows = [*rows_of_all_kinds(), long, *(make_row(index) for index in range(13, 140))]
    return report(make_run(rows), tmp_path / "out").page.as_uri()


def test_by_keyboard_and_without_a_network(browser: Any, url: str) -> None:
    opened = Opened(browser, url)
    page = opened.page
    assert page.inner_text("#account") == "prompts 141 = rows 140 + failed 1"
    for _ in range(20):  # faster than blocks load: the last one is shown
        page.keyboard.press("j")
    opened.shows("Question 19: what is a kite?")
    page.keyboard.press("k")
    opened.shows("Question 18: what is a kite?")
    page.keyboard.press("/")
    page.keyboard.type("question 137")
    assert page.inner_text("#count") == "1 of 140 rows"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    opened.shows("Question 137: what is a kite?")
    opened.shows("A good answer to question 137.")
    page.click("#clear")
    page.fill("#text", "can't help with that")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('count').textContent === '1 of 140 rows'")
    assert not opened.said
    assert all(one.startswith(url.rsplit("/", 1)[0]) for one in opened.asked), opened.asked
    assert page.title() == "run - sso-data"


def test_hostile_text_is_text(browser: Any, url: str) -> None:
    opened = Opened(browser, url)
    opened.page.click("#check-list button:has-text('refuses')")
    opened.shows("can't help with that")
    opened.page.select_option("#reason", "kept")
    opened.page.click("#clear")
    opened.page.evaluate("open(10)")
    opened.shows("</script><script>document.title='taken'</script><U+202E><U+001B>[31m")
    assert HOSTILE[:20] in opened.page.inner_text("#detail")
    assert opened.page.title() == "run - sso-data" and not opened.said


def test_tokens_are_tinted_under_any_two_views(
    browser: Any, make_run: Make, tmp_path: Path
) -> None:
    rows = rows_of_all_kinds()
    tokens = Tokens(
        texts=("It", f" {HOSTILE}", ""),
        sizes=(1, 2, 1),
        nats={
            "good": [-1.0, -0.5, -0.5, -0.1],
            "bad": [-3.0, -0.5, -0.25, -0.1],
            "plain": [-0.5, -1.0, -1.0, -0.1],
        },
    )
    done = report(make_run(rows), tmp_path / "out", tokens={rows[0].id: {"good": tokens}})
    opened = Opened(browser, done.page.as_uri())
    page = opened.page

    def tints() -> list[tuple[str, str]]:
        found = page.query_selector_all(".answers > div:first-child span")
        return [(one.get_attribute("class"), one.get_attribute("title")) for one in found]

    page.keyboard.press("j")
    opened.shows("Question 0: what is a kite?")
    assert tints()[:2] == [
        ("more", "good -1.00, bad -3.00: +2.00 nats"),
        ("less", "good -1.00, bad -0.75: -0.25 nats"),
    ]
    colours = page.evaluate(  # of the three pieces
        "[...document.querySelectorAll('.answers span')]"
        ".map((one) => one.style.getPropertyValue('--strength'))"
    )
    assert colours == ["100%", "13%", "0%"]
    opened.shows("It </script><script>document.title='taken'</script><U+202E>")
    page.select_option("#detail select", "good plain")
    assert tints()[0] == ("less", "good -1.00, plain -0.50: -0.50 nats")
    page.select_option("#detail select", "")
    assert tints() == []
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    opened.shows("Question 1: what is a kite?")
    assert tints() == [] and page.query_selector("#detail select") is None
    assert page.title() == "run - sso-data" and not opened.said


def test_links_reasons_and_the_command(browser: Any, url: str) -> None:
    row = make_row(8)
    opened = Opened(browser, f"{url}#row={row.id}")
    opened.shows("dropped by not_steered: own - plain of chosen is -1.5, must be > 0: 1.5 short")
    opened.page.select_option("#reason", "not_steered")
    opened.page.select_option("#principle", "Accuracy")
    opened.page.select_option("#sort", "margin")
    assert opened.page.evaluate("command()") == (
        "sso-data show 'run' --reason not_steered --principle 'Accuracy' --sort margin"
    )
    assert opened.page.inner_text("#count") == "1 of 140 rows"
    opened.page.fill("#text", "nowhere")
    opened.page.click("#copy")
    assert opened.page.inner_text("#count") == "no row is shown: there is nothing to copy"
    assert opened.page.evaluate("command()") == "" and not opened.said


def test_rows_are_ordered_as_show_orders_them(browser: Any, make_run: Make, tmp_path: Path) -> None:
    far = [make_row(i, means={("plain", "good"): -1.0 - i % 4 / 10 - i / 50}) for i in range(12)]
    run = make_run(far)
    opened = Opened(browser, report(run, tmp_path / "out").page.as_uri())
    for name in ("margin", "gap", "closeness", "length"):
        opened.page.select_option("#sort", name)
        assert opened.page.evaluate("command()") == f"sso-data show 'run' --sort {name} -n 12"
        wanted = [one.row.id for one in select(run, sort=name, number=12).chosen]
        assert opened.page.evaluate("shown.map((i) => data.columns.id[i])") == wanted


@pytest.mark.parametrize("width", [1440, 390])
def test_an_opened_row_comes_into_sight_and_stays(browser: Any, url: str, width: int) -> None:
    opened = Opened(browser, url, width)
    page = opened.page

    def top() -> float:
        return float(page.evaluate("document.getElementById('detail').getBoundingClientRect().top"))

    assert top() > 900
    page.keyboard.press("j")
    opened.shows("Question 0: what is a kite?")
    page.wait_for_function("document.getElementById('detail').getBoundingClientRect().top < 200")
    assert top() >= 0
    page.evaluate("open(12)")
    opened.shows("Question 12: what is a kite?")
    page.evaluate("document.getElementById('detail').scrollTop = 300")
    before = page.evaluate("document.getElementById('detail').scrollTop")
    assert before == (300 if width > 760 else 0), "a phone scrolls the page instead"
    page.keyboard.press("d")
    opened.shows("hide differences")
    assert page.evaluate("document.getElementById('detail').scrollTop") == before
    page.click("#detail button:has-text('hide differences')")
    assert page.evaluate("document.getElementById('detail').scrollTop") <= before
    assert page.evaluate("document.activeElement.textContent") == "mark differences"


@pytest.mark.parametrize("width", [1440, 390])
def test_no_table_is_cut(
    browser: Any, url: str, make_run: Make, tmp_path: Path, width: int
) -> None:
    runs = [make_run(rows_of_all_kinds(), f"a run of a long name {name}") for name in "ab"]
    for address in (url, compare(runs, tmp_path / "both").page.as_uri()):
        opened = Opened(browser, address, width)
        opened.page.evaluate("open(8)")
        opened.shows("Question 8: what is a kite?")
        assert opened.page.evaluate(
            "[...document.querySelectorAll('.scroll')].every((one) => "
            "one.scrollWidth <= one.clientWidth)"
        )
        assert not opened.said


def test_the_way_of_every_row(browser: Any, url: str) -> None:
    """The stages as `filter` prints them, with the prompts that failed; each shows its rows."""
    opened = Opened(browser, url)
    lines = [
        [cell.inner_text() for cell in line.query_selector_all("td")]
        for line in opened.page.query_selector_all("#ledger-table tbody tr")
    ]
    assert [line[:3] for line in lines] == [
        ["prompts", "", "141"], ["failed", "1", "140"], ["rows", "", "140"],
        ["truncated", "1", "139"], ["not_steered", "1", "138"], ["off_policy", "0", "138"],
        ["gap", "0", "138"], ["kept", "", "138"],
    ]  # fmt: skip
    assert lines[2][3:] == ["-1.000 / -1.125", "8 / 8 / 8", "1.486 / 1.500"]
    opened.page.click("#ledger-table button:has-text('truncated')")
    assert opened.page.inner_text("#count") == "1 of 140 rows"
    found = opened.page.inner_text("#check-list li:last-child")
    assert found.startswith("Found in none of 138: chosen is shorter; rejected refuses; chosen is ")


def test_a_threshold_beyond_the_axis_is_at_its_end(
    browser: Any, make_run: Make, tmp_path: Path
) -> None:
    run = make_run([make_row(i, tokens={"good": 8 + i % 5}) for i in range(20)])
    refilter(run, run_config(run, ["filter.gap=9"], preset=None))
    opened = Opened(browser, report(run, tmp_path / "out").page.as_uri())
    first = opened.page.query_selector("#histograms figure")
    assert "threshold 9 (right of the axis)" in first.inner_text()
    line = first.query_selector("line")
    assert line.get_attribute("x1") == line.get_attribute("x2") == "41"
    lengths = opened.page.query_selector("#histograms figure:has-text('length of chosen')")
    ticks = [one.inner_text() for one in lengths.query_selector_all(".below span")]
    assert ticks == ["8", "9", "10", "11", "12", "13"], "whole numbers of tokens"
    alike = opened.page.query_selector("#histograms figure:has-text('length of rejected')")
    assert "all 20 are 8" in alike.inner_text()
    bar = alike.query_selector("rect.all")
    assert [bar.get_attribute(key) for key in ("x", "width")] == ["5.05", "0.9"], "of 11 bins"
    label = alike.query_selector(".below span:has-text('8')").bounding_box()
    box = bar.bounding_box()
    assert abs(label["x"] + label["width"] / 2 - box["x"] - box["width"] / 2) < 1, "below its bar"


def test_how_it_was_made_unfolds(browser: Any, url: str) -> None:
    page = Opened(browser, url).page
    assert not page.is_visible("#made table")
    page.click("#made summary")
    assert page.inner_text("#made tr:nth-child(5)").split("\t") == [
        "sampling",
        "temperature=0.7, top_p=0.8, top_k=0, min_p=0.0, max_tokens=2048, samples=1, "
        "min_completion=16",
    ]


def test_a_run_without_rows_is_a_sentence(browser: Any, make_run: Make, tmp_path: Path) -> None:
    opened = Opened(browser, report(make_run([]), tmp_path / "out").page.as_uri())
    assert opened.page.inner_text("body").splitlines() == [
        "run", "", "prompts 1 = rows 0 + failed 1", "",
        "How it was made: org/policy, auto; principles long; temperature 0.7, at most 2048 tokens; "
        "filter preset closeness; 2026-01-02", "",
        "There are no rows; failed.jsonl says why prompts failed.",
    ]  # fmt: skip
    assert not opened.said


def test_invisible_characters_are_marked_as_in_the_terminal(browser: Any, url: str) -> None:
    """The page's rule against that of `show`, over characters of every kind."""
    opened = Opened(browser, url)
    kinds = "\x1b\x00\x7f\x9b\u00ad\u061c\u200b\u200c\u200d\u200e\u2028\u2029\u202e\u2066\ufeff"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    text = f"a{'b'.join(kinds)}\U000e0041\ue000 {family} \u0928\u0940 \r\n end"
    shown = opened.page.evaluate("(text) => make('p', {}, ...visible(text)).textContent", text)
    assert shown == visible(text) and family in shown
    for name in ("<U+001B>", "<U+00AD>", "<U+2028>", "<U+2029>", "<U+E0041>"):
        assert name in shown


@pytest.mark.parametrize("width", [1440, 390])
def test_columns_are_wide_enough_or_stacked(browser: Any, url: str, width: int) -> None:
    opened = Opened(browser, url, width)
    for row, text in ((0, "Question 0: what is a kite?"), (12, "show all 100000 characters")):
        opened.page.evaluate(f"open({row})")
        opened.shows(text)
        boxes = [one.bounding_box() for one in opened.page.query_selector_all(".answers > div")]
        assert len(boxes) == 3 and all(box["width"] >= 280 for box in boxes)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.click("#detail button:has-text('show all')")
    assert len(opened.page.inner_text("#detail")) > 100_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(
    browser: Any, url: str, make_run: Make, tmp_path: Path, width: int, scheme: str
) -> None:
    """Accessibility (WCAG 2 A and AA, and best practices) of both pages, a row opened."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    runs = [make_run(rows_of_all_kinds(), name) for name in ("a", "b")]
    for address in (url, compare(runs, tmp_path / "both").page.as_uri()):
        opened = Opened(browser, address, width, scheme)
        opened.page.keyboard.press("j")
        opened.shows("Question 0: what is a kite?")
        opened.page.keyboard.press("d")
        found = axe.run(opened.page)
        assert found.violations_count == 0, found.generate_report()


def test_a_missing_torn_or_foreign_block_is_told(
    browser: Any, url: str, make_run: Make, tmp_path: Path
) -> None:
    block = tmp_path / "out" / "data" / "00001.js"
    mine = block.read_bytes()
    same_prompts = [make_row(i, texts={"good": "Of another run."}) for i in range(140)]
    other = report(make_run(same_prompts, "other"), tmp_path / "other-out").page.parent
    for bad in (
        None,
        mine[:-100],
        mine[:100] + bytes([mine[100] ^ 1]) + mine[101:],
        (other / "data/00001.js").read_bytes(),
        (tmp_path / "out/data/00002.js").read_bytes(),
    ):
        block.unlink(missing_ok=True)
        if bad is not None:
            block.write_bytes(bad)
        opened = Opened(browser, url)
        opened.page.evaluate("open(8)")
        opened.shows("Question 8: what is a kite?")
        opened.page.evaluate("open(100)")
        opened.shows("This row cannot be shown")
        assert "Of another run" not in opened.page.inner_text("#detail")


def test_what_is_shown_of_every_row_is_the_filters(
    browser: Any, make_run: Make, tmp_path: Path
) -> None:
    """Reason, means and the limits of every row, as text on the page, against `show`'s own."""
    run = make_run(rows_of_all_kinds())
    opened = Opened(browser, report(run, tmp_path / "out").page.as_uri())
    chosen = select(run, number=100).chosen
    assert len(chosen) == 12
    for place, one in enumerate(chosen):
        opened.page.evaluate(f"open({place})")
        opened.shows(f"row {one.row.id} ")
        head, *_ = opened.page.inner_text("#detail").splitlines()
        assert head == verdict_on(one.reason, one.outcomes)
        *_, tests, means = (
            [[cell.inner_text() for cell in line.query_selector_all("td")] for line in lines]
            for lines in (
                table.query_selector_all("tbody tr")
                for table in opened.page.query_selector_all("#detail > .scroll")
            )
        )
        assert means == [
            [seen, *(_mean(one.row, seen, drawn) for drawn in SIDE_OF)] for seen in VIEWS
        ]
        assert tests == list(_asked(one.row))


def _asked(row: Row) -> Iterator[list[str]]:
    """Every number, what is asked of it, and whether it passes, from the log-probs alone."""

    def line(name: str, value: float, asks: str, *, passes: bool) -> list[str]:
        shown = f"{value}" if "tokens" in name else _fixed(value)
        return [name, shown, asks, "passes" if passes else "fails"]

    for view, side in SIDE_OF.items():
        count = row.responses[view].num_tokens
        yield line(f"too_short: tokens of {side}", count, "at least 1", passes=count >= 1)
    sides: list[tuple[View, View]] = [("good", "bad"), ("bad", "good")]
    under = {
        own: (row.mean(own, own), row.mean("plain", own), row.mean(opposite, own))
        for own, opposite in sides
    }
    for name, a, b in (("own - plain", 0, 1), ("plain - opposite", 1, 2), ("own - opposite", 0, 2)):
        for own, _ in sides:
            value = under[own][a] - under[own][b]
            yield line(f"not_steered: {name} of {SIDE_OF[own]}", value, "over 0", passes=value > 0)
    for own, _ in sides:
        far = row.mean("plain", "plain") - under[own][1]
        name = f"off_policy: closeness of {SIDE_OF[own]}"
        yield line(name, far, "at most 0.3", passes=far <= 0.3)
    for own, _ in sides:
        gap = under[own][0] - under[own][2]
        yield line(f"gap of {SIDE_OF[own]}", gap, "at least 0.05", passes=gap >= 0.05)


def _mean(row: Row, seen: View, drawn: View) -> str:
    return _fixed(row.mean(seen, drawn)) if (seen, drawn) in row.logp else "-"


def _fixed(value: float) -> str:
    return f"{value:.3f}"


def test_the_served_page_is_tinted_and_tells_what_is_wrong(browser: Any, run: Path) -> None:
    tokens = Tokens(
        texts=("It flies",), sizes=(1,), nats={"good": [-1.0], "bad": [-3.0], "plain": [-0.5]}
    )
    load_scores(run, dry=False)  # what was written is known
    with serving(run, {make_row(0, tokens={"good": 12}).id: {"good": tokens}}) as viewer:
        opened = Opened(browser, viewer.url)
        opened.page.keyboard.press("j")
        opened.shows("It flies")
        tint = opened.page.query_selector(".answers > div:first-child span")
        assert tint.get_attribute("title") == "good -1.00, bad -3.00: +2.00 nats"
        assert not opened.said and all(one.startswith(viewer.url) for one in opened.asked)
        other = Opened(browser, viewer.url)
        part = run / "rows/00000.jsonl"
        part.write_bytes(
            part.read_bytes().replace(b"answer to question 3", b"answer to question X")
        )
        opened.page.reload()
        assert "00000.jsonl:4" in opened.page.inner_text("body")
    other.page.evaluate("clearInterval = (one) => { window.cleared = one; }; poll()")
    assert other.page.inner_text("#live") == "the server has ended"
    assert other.page.evaluate("cleared === polling"), "it asks no more"


@pytest.mark.parametrize("width", [1440, 390])
def test_runs_side_by_side(browser: Any, make_run: Make, tmp_path: Path, width: int) -> None:
    """By keyboard: the same prompts' answers, an outcome that differs, a search, no network."""
    rows = [
        make_row(i, texts={"good": HOSTILE if i == 1 else f"Kites fly high {i}."})
        for i in range(70)
    ]
    backwards: dict[Cell, float | None] = {("good", "good"): -2.5}
    runs = [
        make_run(rows_of_all_kinds() + [make_row(i) for i in range(12, 70)], "a"),
        make_run([make_row(69, means=backwards), *rows[:69]], "b"),
    ]
    url = compare(runs, tmp_path / "out").page.as_uri()
    opened = Opened(browser, url, width)
    page = opened.page
    assert page.title() == "a and b - sso-data" and page.inner_text("#count") == "70 of 70 rows"
    for _ in range(3):
        page.keyboard.press("j")
    opened.shows("Question 2: what is a kite?")
    opened.shows("Kites fly high 2.")
    opened.shows("A good answer to question 2.")
    page.keyboard.press("k")
    opened.shows("</script><script>document.title='taken'</script><U+202E><U+001B>[31m")
    page.keyboard.press("d")
    opened.shows("hide differences")
    boxes = [one.bounding_box() for one in page.query_selector_all(".answers > div")]
    assert len(boxes) >= 6 and all(box["width"] >= 280 for box in boxes[:6])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.select_option("#reason", "only 0")
    assert page.inner_text("#count") == "1 of 70 rows"
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    opened.shows("Question 69: what is a kite?")
    assert page.inner_text(".item").endswith("kept | not_steered")
    page.click("#clear")
    page.fill("#text", "kites fly high 42.")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('count').textContent === '1 of 70 rows'")
    assert not opened.said and page.title() == "a and b - sso-data"
    assert all(one.startswith(url.rsplit("/", 1)[0]) for one in opened.asked), opened.asked


@pytest.mark.long
def test_fifty_thousand_rows(browser: Any, make_run: Make, tmp_path: Path) -> None:
    """Loads in 5 s, filters in .3 s, opens in .5 s, and a full search leaves under 150 MB."""
    words = "A kite flies where the wind is strong and the line is long enough. " * 6
    rows = [make_row(i, texts=dict.fromkeys(VIEWS, f"{i} {words}")) for i in range(50_000)]
    url = report(make_run(rows), tmp_path / "out").page.as_uri()
    began = time.monotonic()
    opened = Opened(browser, url)
    loaded = time.monotonic() - began
    filtered = opened.page.evaluate(
        "() => { const t = performance.now(); select({text: 'question 49'}); "
        "return performance.now() - t; }"
    )
    began = time.monotonic()
    opened.page.evaluate("select({text: ''}); open(49999)")
    opened.shows("Question 49999: what is a kite?")
    shown = time.monotonic() - began
    opened.page.fill("#text", "49998 A kite")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_function(
        "() => document.getElementById('count').textContent === '1 of 50000 rows'", timeout=600_000
    )
    session = opened.page.context.new_cdp_session(opened.page)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    print(f"load {loaded:.2f} s, filter {filtered:.0f} ms, open {shown:.2f} s, heap {heap:.0f} MB")
    assert loaded < 5 and filtered < 300 and shown < 0.5 and heap < 150 and not opened.said
