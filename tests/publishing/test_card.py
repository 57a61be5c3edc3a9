"""The dataset card: what it says, what it never says, and how it joins a card that is there."""

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard as HubCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from sso_data.core.errors import InputError, RunError
from sso_data.core.markdown import code, inline
from sso_data.filtering.explain import effect_of
from sso_data.generation.merge import merge
from sso_data.publishing.card import CardConfig, dataset_card, read_facts
from sso_data.publishing.numbers import Distribution, bin_edges, count_pairs
from sso_data.publishing.public import public_json
from sso_data.publishing.readme import (
    END,
    START,
    merge_card,
    read_metadata,
    size_category,
    split_page,
)
from sso_data.runs.workdir import write_json
from tests.exporting.making import asking, every_kind, make_run

PAIRS = CardConfig(name="pairs", path="train.jsonl", rows=8, default=True)
ROWS = CardConfig(name="rows", path="rows/*.jsonl", rows=9)
HOME = "/home/somebody"
TOKEN = "hf_" + "a" * 34


@pytest.fixture(autouse=True)
def pictures_where_they_matter(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing takes most of a card's time."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("sso_data.publishing.card.draw_plots", lambda numbers: {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", every_kind(), model="Qwen/Qwen3-8B", strictly=False)


def card(run: Path, **options: Any) -> str:
    existing = options.pop("existing", "")
    options = {"repo": "me/pairs", "configs": [PAIRS]} | options
    return merge_card(dataset_card(read_facts(run), **options)[0], existing)


def front_of(text: str) -> dict[str, Any]:
    return read_metadata(split_page(text)[0])


def test_what_the_page_says(run: Path) -> None:
    text = card(run, command="sso-data push runs/x me/pairs")
    for said in (
        "# pairs\n",
        "arxiv.org/abs/2410.17131",
        "| model | [Qwen/Qwen3-8B](https://huggingface.co/Qwen/Qwen3-8B) |",
        "| prompts from | `prompts.jsonl` |",
        "| prompts | 8 = rows 8 + failed 0; 2 of the pairs have several turns; "
        "1 of the pairs have a system message of their own |",
        "| sampling, all three times | `temperature = 0.7`, `top_p = 0.8`, `top_k = 0`, "
        "`min_p = 0.0`, `max_tokens = 2048`",
        "| engine | vllm 0.32.0 cuda bfloat16 |",
        "| Accuracy | 8 | 100.0% |",
        "Preset `closeness`: 8 of 8 rows are kept. Limits: `min_tokens = 1`, `closeness = 0.7`",
        "| `rows` |  | 8 | -1.000 / -1.125 | 8.0 / 8.0 | 1.500 / 1.500 |",
        "| length of chosen (tokens) | 8.0 | 8 | 8 | 8 |",
        "| log-prob of original, plain view (nats/token) | -0.875 | -0.875 | -0.875 | -0.875 |",
        "| `pairs` (default) | 8 | what the filter kept | `train.jsonl` |",
        'load_dataset("me/pairs", "pairs", split="train")',
        "sso-data train me/pairs --model Qwen/Qwen3-8B",
        "dataset_dir: REMOTE:me/pairs",
        "> **The rejected texts are wrong, unhelpful or unsafe on purpose**",
        "for preference losses (DPO, IPO, SSO), reward models",
        "never train on `rejected` or `system_bad` alone",
        "sso-data generate prompts.jsonl --model Qwen/Qwen3-8B --out RUN\n"
        "sso-data filter RUN\nsso-data push runs/x me/pairs\n",
        "@article{xiang2024aligning,",
    ):
        assert said in text, said


def test_settings_that_differ_stand_in_the_command(tmp_path: Path) -> None:
    settings = [
        "sampling.temperature=0.6",
        "steering.features=[Safety, Accuracy]",
        "engine.vllm={quantization: fp8}",
        "filter.gap=q0.5",
        "seed=7",
        f"templates={HOME}/words",
        f"principles={HOME}/catalogue",
    ]
    run = make_run(tmp_path / "run", every_kind(), settings=settings, strictly=False)
    (line,) = [part for part in card(run).splitlines() if part.startswith("sso-data generate")]
    for said in (
        "--seed 7",
        "--principles catalogue",
        "--set templates=words",
        "--set sampling.temperature=0.6",
        "--set 'steering.features=[Safety, Accuracy]'",
        "--set 'engine.vllm={quantization: fp8}'",
    ):
        assert said in line
    assert "sso-data filter RUN --set filter.gap=q0.5" in card(run)


def commands_of(text: str) -> list[str]:
    """The commands that the card is made by."""
    said = text.partition("## Made by")[2]
    return [line for line in said.splitlines() if line.startswith("sso-data ")]


def given(source: str, **settings: Any) -> dict[str, Any]:
    return {"source": source, "settings": settings}


def test_each_source_has_its_command(tmp_path: Path) -> None:
    """Read as it was read: the settings of one source are not those of another."""
    sources = [f"{HOME}/a.jsonl", "team/prompts"]
    manifest = {
        "sources": sources,
        "given": [given(sources[0], limit=5), given(sources[1], column="question")],
    }
    settings = ["source.column=question", "seed=3"]
    run = make_run(
        *(tmp_path / "run", every_kind()), settings=settings, manifest=manifest, strictly=False
    )
    assert commands_of(card(run)) == [
        "sso-data generate a.jsonl --model test/model --seed 3 --set source.limit=5 --out RUN",
        "sso-data generate team/prompts --model test/model --seed 3 --set source.column=question "
        "--out RUN",
        "sso-data filter RUN",
    ]


def test_a_merged_run_is_made_by_its_parts(tmp_path: Path) -> None:
    """Runs merged in runs, directories of one name, and prompts that came after the merge."""
    source = f"{HOME}/in.jsonl"

    def shard(number: int, **more: Any) -> Path:
        part = tmp_path / f"{number}" / "part"
        made = {"given": [given(source, shard=f"{number}/3")], "sources": [source], **more}
        rows = every_kind()[2 * number : 2 * number + 2]
        return make_run(part, rows, manifest=made, strictly=False)

    inner, out = tmp_path / "inner", tmp_path / "out"
    merge([shard(1), shard(2)], inner)
    merge([inner, shard(3)], out)
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["sources"] == [source] and "given" not in manifest
    made_from = commands_of(card(out, command="sso-data push RUN me/pairs"))
    plain = "sso-data generate in.jsonl --model test/model --set source.shard="
    expected = [
        f"{plain}1/3 --out part",
        f"{plain}2/3 --out part-2",
        "sso-data merge part part-2 --out inner",
        f"{plain}3/3 --out part-3",
        "sso-data merge inner part-3 --out RUN",
        "sso-data filter RUN",
        "sso-data push RUN me/pairs",
    ]
    assert made_from == expected
    write_json(out / "run.json", manifest | {"given": [given("more.txt")]})
    after = "sso-data generate more.txt --model test/model --out RUN"
    assert commands_of(card(out))[4:6] == [expected[4], after]
    assert HOME not in public_json(manifest).decode()


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", every_kind(), manifest={"prompts": 240})
    text = card(run)
    assert "| prompts | 8 = rows 8 + failed 0; " in text
    assert (
        "| unfinished | the run was published before its end: 8 of 240 prompts are done |" in text
    )


def test_the_metadata_says_nothing_that_nobody_said(run: Path) -> None:
    found = front_of(card(run, configs=[PAIRS, ROWS]))
    assert found == {
        "task_categories": ["text-generation"],
        "tags": [
            "preference",
            "dpo",
            "on-policy",
            "synthetic",
            "self-steering-optimization",
            "sso-data",
        ],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "pairs",
                "data_files": [{"split": "train", "path": "train.jsonl"}],
                "default": True,
            },
            {
                "config_name": "rows",
                "data_files": [{"split": "train", "path": "rows/*.jsonl"}],
            },
        ],
    }
    said = front_of(card(run, language=["en", "de"], license="cc-by-4.0"))
    assert (said["language"], said["license"]) == (["en", "de"], "cc-by-4.0")


def test_the_real_clients_read_it(run: Path, tmp_path: Path) -> None:
    """The Hub's client finds the metadata, `datasets` the rows of the default configuration."""
    text = card(run, language=["no"])
    assert HubCard(text).data.to_dict() == front_of(text)
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "README.md").write_text(text)
    (repo / "train.jsonl").write_bytes((run / "pairs" / "train.jsonl").read_bytes())
    (repo / "other.jsonl").write_text("{}\n")
    cache = str(tmp_path / "cache")
    for name in (None, "pairs"):
        rows = load_dataset(str(repo), name, split="train", cache_dir=cache)
        assert [row["id"] for row in rows] == [row.id for row in every_kind()]


def test_pictures(run: Path) -> None:
    facts = read_facts(run)
    made, plots = dataset_card(facts, repo="me/pairs", configs=[PAIRS])
    assert sorted(plots) == ["plots/lengths.png", "plots/logprobs.png"]
    for path, picture in plots.items():
        assert picture.startswith(b"\x89PNG")
        assert f"![{path}]({path})" in merge_card(made)
    again = dataset_card(facts, repo="me/pairs", configs=[PAIRS])
    assert (made, plots) == again, "the same run, the same card"


def test_nothing_of_this_machine_is_said(tmp_path: Path) -> None:
    settings = [
        f"principles={HOME}/own/catalogue",
        f"engine.adapter={HOME}/own/adapter",
        f"engine.vllm={{lora_path: {HOME}/own/x, deep: [{{file: {HOME}/y/z}}]}}",
    ]
    run = make_run(
        tmp_path / "run",
        [asking(0, ("user", "a"), steering=steering_by(f"{HOME}/models/writer"))],
        model=f"{HOME}/models/first",
        settings=settings,
        manifest={"sources": [f"{HOME}/a/prompts.jsonl", "data/mine.jsonl", "~/other"]},
    )
    command = f"sso-data push {HOME}/runs/1 me/pairs --token={TOKEN} --config ~/x/run.yaml"
    text = card(run, command=command)
    assert HOME not in text
    assert str(tmp_path) not in text
    assert "data/" not in text
    assert TOKEN not in text
    assert "sso-data push 1 me/pairs --token=<token> --config run.yaml" in text
    assert "sso-data train me/pairs --model MODEL" in text
    assert "| adapter (LoRA) | `adapter` |" in text
    assert "| prompts from | `prompts.jsonl`, `mine.jsonl`, `other` |" in text


@pytest.mark.parametrize("people", [True, False])
def test_conversations_of_people_are_said_to_be_theirs(tmp_path: Path, people: bool) -> None:
    manifest = {"peoples_chats": True} if people else {}
    run = make_run(tmp_path / "run", [asking(0, ("user", "a"))], manifest=manifest)
    assert ("may hold personal data" in card(run)) == people


def steering_by(writer: str) -> Any:
    return replace(asking(0, ("user", "a")).steering, written_by=(writer, "catalogue"))


HOSTILE = f"a|b\n---\n{START}\n{END}\n# x `y` <script> [l](http://evil) *z* ``` {{{{ 1 }}}} \\ $m$"


HEADINGS = [
    "pairs",
    *("How it was made", "Principles", "Filter", "Numbers", "What is in it", "How to load it"),
    *("Limits and risks", "Made by", "Citation"),
]


def every_token(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from every_token(token.children or [])


def tables_of(tokens: Sequence[Token]) -> list[list[list[str]]]:
    """Tables of rows of cells, heads included."""
    tables: list[list[list[str]]] = []
    for token in tokens:
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            tables[-1][-1].append(token.type)
    return tables


def test_words_cannot_break_the_page(tmp_path: Path) -> None:
    """Names of models, principles, sources and settings stay words in a cell."""
    plain = asking(0, ("user", "a"))
    steering = replace(
        plain.steering, features=(HOSTILE, "Accuracy"), chosen_by=HOSTILE, written_by=(HOSTILE,)
    )
    run = make_run(
        tmp_path / "run",
        [asking(0, ("user", "a"), steering=steering)],
        model=HOSTILE,
        manifest={
            "sources": [HOSTILE],
            "sso_data": HOSTILE,
            "engine": {"name": HOSTILE},
            "identity": {"model": HOSTILE, "principles": HOSTILE},
            "template": {"template_kwargs": {"x": HOSTILE}},
        },
    )
    text = card(run, command=f"sso-data push {HOSTILE}")
    assert front_of(text)["tags"][0] == "preference"
    page = split_page(text)[1]
    assert page.strip().startswith(START) and page.strip().endswith(END)
    found = MarkdownIt("commonmark").enable("table").parse(page)
    html = [one.content.strip() for one in every_token(found) if one.type.startswith("html")]
    assert html == [START, END]
    headings = [found[n + 1].content for n, one in enumerate(found) if one.type == "heading_open"]
    assert headings == HEADINGS
    links = [one.attrs["href"] for one in every_token(found) if one.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2410.17131"]
    widths = [len(cells) for table in tables_of(found) for cells in table]
    assert [len(table) > 2 for table in tables_of(found)] == [True] * 4 + [False]
    assert len(set(widths)) == 5, "every row of a table has its columns"
    again = card(run, existing=text, command=f"sso-data push {HOSTILE}")
    assert again == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain", "plain"),
        ("a|b", r"a\|b"),
        ("<b> & `c`", r"&lt;b&gt; &amp; \`c\`"),
        ("two\nlines\u202e", "two lines?"),
        ("https://x.y", "https&#58;//x.y"),
        ("snake_case *s* [l](u)", r"snake\_case \*s\* \[l\](u)"),
    ],
)
def test_inline(given: str, expected: str) -> None:
    assert inline(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain", "`plain`"),
        ("a|b", r"`a\|b`"),
        ("`tick`", "`` `tick` ``"),
        ("two\nlines", "`two lines`"),
        ("", "`  `"),
    ],
)
def test_code(given: str, expected: str) -> None:
    assert code(given) == expected


THEIRS = """---
# a comment of theirs
license: apache-2.0  # ours to keep
pretty_name: "0123"
tags:
- mine
- dpo
train: no
configs:
- config_name: extra
  data_files: extra/*.csv
- config_name: pairs
  data_files: old.jsonl
dataset_info:
- config_name: extra
  features: [{name: a, dtype: string}]
- config_name: pairs
  features: [{name: gone, dtype: string}]
size_categories: [1M<n<10M]
---
# Their title

Their words.
"""


def test_a_card_that_is_there_is_kept(run: Path) -> None:
    text = card(run, existing=THEIRS)
    front, page = split_page(text)
    kept = '# a comment of theirs\nlicense: apache-2.0  # ours to keep\npretty_name: "0123"\n'
    assert front.startswith(kept)
    assert "train: no\n" in front
    found = front_of(text)
    assert found["tags"][:2] == ["mine", "dpo"]
    assert found["tags"].count("dpo") == 1
    assert [one["config_name"] for one in found["configs"]] == ["extra", "pairs"]
    assert found["configs"][1]["data_files"] == [{"split": "train", "path": "train.jsonl"}]
    assert [one["config_name"] for one in found["dataset_info"]] == ["extra"]
    assert found["size_categories"] == ["1M<n<10M"]
    assert page.lstrip().startswith("# Their title\n\nTheir words.\n\n" + START)
    assert "\n## pairs\n" in page
    assert "sso-data train me/pairs:pairs" in page


def test_our_part_alone_is_written_anew(run: Path) -> None:
    first = card(run, existing=THEIRS)
    edited = first.replace(END, END + "\n\nWords below.").replace("## Filter", "## Spoilt")
    again = card(run, existing=edited)
    assert again == first.replace(END, END + "\n\nWords below.")


def test_the_default_of_others_stays(run: Path) -> None:
    theirs = "---\nconfigs:\n- {config_name: x, data_files: x.csv, default: true}\n---\n"
    found = front_of(card(run, existing=theirs))["configs"]
    assert [one.get("default") for one in found] == [True, None]


@pytest.mark.parametrize(
    "existing",
    ["", "no metadata\n", "---\n---\nempty\n", "---\r\ntags: [x]\r\n---\r\nwindows\r\n", "\ufeff"],
)
def test_cards_of_any_shape(run: Path, existing: str) -> None:
    text = card(run, existing=existing)
    assert front_of(text)["configs"][0]["config_name"] == "pairs"
    words = existing.replace("\ufeff", "").rpartition("---")[2].strip()
    assert words in text
    assert card(run, existing=text) == text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"language": ["English"]},
            "--language 'English': is not a language code such as en or deu",
        ),
        ({"license": "Apache 2.0"}, "--license 'Apache 2.0': is not a licence identifier"),
        ({"existing": "---\n[1]\n---\n"}, "metadata is no mapping"),
        ({"existing": "---\na: b: c\n---\n"}, "metadata is not readable"),
        ({"existing": "---\ntags: {a: b}\n---\n"}, "tags: must be a list of texts"),
        ({"existing": "---\nconfigs: {a: b}\n---\n"}, "configs: must be a list of mappings"),
        ({"existing": "---\nconfigs: [{config_name: 'a/b'}]\n---\n"}, "configs: config_name"),
        (
            {"existing": "---\nconfigs: [{config_name: a, data_files: [{path: x}]}]\n---\n"},
            "configs: data_files of 'a' must name split and path",
        ),
        (
            {"existing": "---\nconfigs:\n- config_name: a\n- config_name: a\n---\n"},
            "configs: duplicate config_name 'a'",
        ),
        ({"existing": "---\nlanguage: [no]\n---\n"}, "language: False is not a language code"),
        ({"existing": "---\ntask_categories: [A B]\n---\n"}, "task_categories: 'A B'"),
        ({"existing": "---\ndataset_info: 3\n---\n"}, "dataset_info: must be a mapping"),
        ({"existing": f"x\n{START}\ny\n"}, "README.md: must contain the marker lines"),
        ({"existing": f"{END}\n{START}\n"}, "README.md: must contain the marker lines"),
        ({"configs": [CardConfig(name="", path="a", rows=1)]}, "configs: config_name"),
    ],
)
def test_what_is_wrong_is_named(run: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        card(run, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_pairs_says_how_to_make_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", every_kind(), kept=False)
    with pytest.raises(RunError, match="decide on them with `sso-data filter"):
        card(run)


def test_a_filter_that_kept_nothing(tmp_path: Path) -> None:
    far = [asking(0, ("user", "a"), means={("plain", "good"): -9.0})]
    facts = read_facts(make_run(tmp_path / "run", far))
    made, plots = dataset_card(facts, repo="me/pairs", configs=[PAIRS])
    assert not plots
    assert "0 of 1 rows are kept" in merge_card(made)
    assert "## Numbers" not in merge_card(made)


def test_cut_off_responses_are_counted(tmp_path: Path) -> None:
    rows = [asking(0, ("user", "a"), finish={"bad": "length"}), asking(1, ("user", "b"))]
    run = make_run(tmp_path / "run", rows, settings=["filter.drop_truncated=false"])
    assert "Cut off at the limit of tokens: rejected 1." in card(run)


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**10, "n>1B")],
)
def test_size_categories(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_quantiles_are_those_of_the_values() -> None:
    values = Distribution(width=0.001)
    for number in range(1, 101):
        values.add(-number / 100)
    assert values.mean == pytest.approx(-0.505)
    assert values.quantile(0.5) == pytest.approx(-0.51)
    assert values.quantile(0.05) == pytest.approx(-0.96)
    assert values.quantile(1.0) == pytest.approx(-0.01)
    edges = bin_edges([values], 50)
    assert len(edges) <= 51
    assert edges[0] < -0.99 < -0.02 < edges[-1]


def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    peaks = []
    for count in (200, 2000):
        rows = [asking(n, ("user", f"Question {n}")) for n in range(count)]
        run = make_run(tmp_path / str(count), rows, settings=["output.parquet=false"])
        tracemalloc.start()
        assert count_pairs(run).rows == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50_000


def test_the_yaml_is_what_a_plain_reader_reads(run: Path) -> None:
    front, _ = split_page(card(run, existing=THEIRS))
    assert yaml.safe_load(front)["configs"][1]["config_name"] == "pairs"


def test_it_says_what_the_texts_did(run: Path) -> None:
    effect = effect_of(read_facts(run).scores.rows)
    assert f"What the principles' texts did to the model: {effect}." in card(run)
