"""Which filter test is the better default: yield, signal accuracy, what a round of training does.

    python -m benchmarks.filter_tests --work DIR              # the tiny world: choose, then confirm
    python -m benchmarks.filter_tests --work DIR --train      # and one round of SSO per test
    python -m benchmarks.filter_tests --real shorter=RUN --real List=OTHER_RUN    # and --train
    python -m benchmarks.filter_tests --ends RUN --model DIR  # what the end of an answer costs

Every finished line is kept in DIR/results.jsonl, and the same command goes on from there; the table
is Markdown. The oracle judges the tiny world. Real runs (made with `sso-data generate` and one
principle each) are judged by `shorter` (chosen has fewer tokens) or by the check of a principle of
the catalogue `checkable`, by its name; so are the answers to other questions before and after a
round of training. Tests that keep the same rows share one training. Declared before any was run:
the default changes only if the new test keeps at least as many rows and is at least as accurate,
within the 95 % intervals, everywhere.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.claims import checkpoint
from sso_data.config.loading import load
from sso_data.config.run import FilterConfig, RunConfig, load_config
from sso_data.config.training import TrainConfig
from sso_data.core.paths import examples_dir
from sso_data.core.progress import NullProgress
from sso_data.core.records import Row
from sso_data.core.statistics import spearman, wilson
from sso_data.demo import Story, demo_config, one_round, tiny_story
from sso_data.filtering.filters import decide
from sso_data.filtering.refilter import refilter
from sso_data.generation.generate import generate
from sso_data.runs.journal import load_scores, read_rows
from sso_data.runs.run import require_run
from sso_data.steering.principles import load_catalogue
from sso_data.world import queries, score

FIRST: dict[str, Any] = {"steered": "chain", "closeness": 0.3, "closeness_offset": 0.0, "gap": 0.05}
"""The default that the others are compared with; each test names what it changes."""
OPEN: dict[str, Any] = {"closeness": 1e9, "gap": 0.0}
CONTRAST: dict[str, Any] = {"steered": "contrast"}
SHORT = CONTRAST | {"closeness_offset": 5.0}
TESTS: dict[str, FilterConfig] = {
    "texts alone": FilterConfig(preset="none"),
} | {
    name: FilterConfig.model_validate(FIRST | changes)
    for name, changes in {
        "chain": {},
        "contrast": CONTRAST,
        "contrast, offset 5": SHORT,
        "contrast, gap .02": CONTRAST | {"gap": 0.02},
        "contrast, any gap": CONTRAST | {"gap": 0.0},
        "contrast, offset 5, any gap": SHORT | {"gap": 0.0},
        "contrast, offset 5, closeness .7, any gap": SHORT | {"closeness": 0.7, "gap": 0.0},
        "chain, any closeness and gap": OPEN,
        "contrast, any closeness and gap": CONTRAST | OPEN,
        "chain, best 3/4": {"keep_best": 0.75},
        "contrast, best 3/4": CONTRAST | {"keep_best": 0.75},
        "contrast, best half": CONTRAST | {"keep_best": 0.5},
    }.items()
}
POLICIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "shipped": ("shipped", {}, {}),
    "second": ("second", {}, {}),
    "second, weakly steered": ("second", {"paraphrase": True}, {}),
    "rambling, temperature 1": ("rambling", {}, {"temperature": 1.0, "max_tokens": 384}),
}
"""Name -> checkpoint of the claims study, steering, sampling; the first two choose, the others
confirm."""
RESULTS = Path(__file__).parents[1] / "docs" / "filter_tests.jsonl"
"""Lines of real runs that docs/filter.md shows."""
SEED = 7
REAL_HELD_OUT, REAL_STEPS = 32, 12


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Filter tests compared.")
    parser.add_argument("--work", type=Path, default=Path("filter-tests"), help="where it is kept")
    parser.add_argument("--rows", type=int, default=320, help="queries of a tiny policy")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="only these of them")
    parser.add_argument("--test", action="append", choices=TESTS, help="only these of them")
    parser.add_argument("--train", action="store_true", help="one round of training for each test")
    parser.add_argument("--real", action="append", default=[], metavar="CHECK=RUN")
    parser.add_argument("--ends", type=Path, metavar="RUN", help="measure the last tokens of a run")
    parser.add_argument("--model", help="the policy of --ends")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    if given.ends:
        ends(given.ends, given.model)
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    file = given.work / "results.jsonl"
    text = file.read_text() if file.exists() else ""
    done = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if given.train:
        done = [line for line in done if "after" in line or not line["kept"]]
    file.write_text("".join(json.dumps(line) + "\n" for line in done))
    known = {(line["where"], line["test"]) for line in done}
    for where, run, judge in places(given):
        for test in given.test or TESTS:
            if (where, test) in known:
                continue
            config = TESTS[test]
            line = {"where": where, "test": test, **measured(run, config, judge)}
            if given.train and line["kept"]:
                line |= round_after(line, done) or trained(
                    run,
                    config,
                    given.work / "training",
                    real_story(run, where.rpartition(": ")[2]) if given.real else None,
                )
            done.append(line)
            with file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    print(part(done), end="")
    return 0


def places(given: argparse.Namespace) -> Iterator[tuple[str, Path, Callable[[Row], float]]]:
    """Every run with its name and judge; runs of the tiny world are made, or continued, here."""
    for one in given.real:
        name, _, run = one.partition("=")
        yield f"{Path(run).name}: {name}", Path(run), rule(name)
    if given.real:
        return
    for name in given.policy or POLICIES:
        policy, steering, sampling = POLICIES[name]
        run = given.work / name.replace(", ", "-").replace(" ", "-")
        prompts = given.work / "prompts.jsonl"
        lines = [json.dumps({"prompt": text}) + "\n" for text in queries(given.rows, seed=SEED)]
        prompts.write_text("".join(lines))
        generate(str(prompts), run, config_of(policy, steering, sampling, given.work))
        yield name, run, oracle


def config_of(
    policy: str, steering: dict[str, Any], sampling: dict[str, Any], work: Path
) -> RunConfig:
    """The demo's configuration with another checkpoint, steering and sampling."""
    config = demo_config()
    changed = {
        "model": str(checkpoint(policy, work)),
        "steering": config.steering.model_copy(update=steering),
        "sampling": config.sampling.model_copy(update=sampling),
    }
    return config.model_copy(update=changed)


def measured(run: Path, config: FilterConfig, judge: Callable[[Row], float]) -> dict[str, Any]:
    """What the filter keeps of a run, how often chosen is better, and its lengths (tokens)."""
    scores = load_scores(run, dry=True)
    decision = decide(scores.rows, config)
    kept = [Row.from_json(orjson.loads(line)) for line in scores.lines(decision.kept)]
    wins = [judge(row) for row in kept]
    accuracy = sum(wins) / len(wins) if wins else None
    low, high = wilson(accuracy, len(wins)) if accuracy is not None else (None, None)
    pairs = hashlib.sha256(b"".join(sorted(row.id.encode() for row in kept))).hexdigest()[:16]
    found: dict[str, Any] = {"rows": len(scores), "kept": len(kept), "pairs": pairs}
    found |= {"accuracy": accuracy, "low": low, "high": high}
    lengths = [row.responses["good"].num_tokens for row in kept]
    return found | {"tokens_chosen": sum(lengths) / len(lengths) if lengths else None}


def round_after(line: dict[str, Any], done: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The round of an earlier test that kept the same rows, if there is one."""
    for one in done:
        if (one["where"], one.get("pairs")) == (line["where"], line["pairs"]) and "after" in one:
            return {key: one[key] for key in ("before", "after", "error")}
    return None


def trained(
    run: Path, config: FilterConfig, place: Path, story: Story | None = None
) -> dict[str, Any]:
    """The unprompted score before and after a round of SSO on what the filter keeps.

    By the oracle, or as a real `story` measures it. `error`: the standard error of the gain over
    the held-out queries.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place / "run")
    refilter(place / "run", RunConfig(filter=config))
    if story is None:
        tiny, model = tiny_story(1), require_run(run)["config"]["model"]
        story = replace(
            tiny,
            run=tiny.run.model_copy(update={"model": model}),
            training=tiny.training.model_copy(update={"model": model}),
        )
    found = one_round(story, place / "run", place / "model", NullProgress())
    return {"before": found.before, "after": found.after, "error": found.gain_error}


def real_story(run: Path, name: str) -> Story:
    """A round of LoRA on a real run, judged on questions that it does not ask, by `name`'s rule."""
    config = load_config(base=require_run(run)["config"])
    asked = {row.messages[-1].content for row in read_rows(run)}
    texts = (examples_dir() / "demo" / "questions.txt").read_text(encoding="utf-8").splitlines()
    degree = None if name == "shorter" else load_catalogue(Path("checkable")).checks[name].degree
    return Story(
        run=config,
        training=load(
            TrainConfig,
            model=config.model,
            optim={"lr": 2e-4, "max_steps": REAL_STEPS, "batch_size": 8},
            lora={"enabled": True},
            checkpoints={"every": REAL_STEPS},
            log={"plot": False},
        ),
        prompts=(),
        held_out=[text for text in texts if text not in asked][:REAL_HELD_OUT],
        measure=lambda _, text: degree(text) if degree else -len(text.split()),
        less_is_better=False,
        unit="score",
        signal="signal accuracy by the rule",
        unprompted="unprompted score by the rule",
    )


def oracle(row: Row) -> float:
    """1 where the tiny world's oracle prefers chosen, 0.5 for a tie."""
    query = row.messages[-1].content
    return better(*(score(query, row.responses[view].text).total for view in ("good", "bad")))


def better(chosen: float, rejected: float) -> float:
    """1 if the first is larger, 0.5 if both are equal, else 0."""
    return float(chosen > rejected) + 0.5 * float(chosen == rejected)


def rule(name: str) -> Callable[[Row], float]:
    """The judge of a real run: fewer tokens, or the check of a principle of the catalogue."""
    if name == "shorter":
        return lambda row: better(*(-row.responses[view].num_tokens for view in ("good", "bad")))
    check = load_catalogue(Path("checkable")).checks[name]
    return lambda row: better(*(check.degree(row.responses[view].text) for view in ("good", "bad")))


def part(done: Sequence[dict[str, Any]]) -> str:
    """What docs/filter.md holds: the table."""
    return "\n".join(table(done)) + "\n"


def table(done: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The results as a Markdown table."""
    yield "| rows of | test | kept | signal accuracy | tokens of chosen | score after a round |"
    yield "|---|---|---|---|---|---|"
    for line in done:
        accuracy, after = "-", "-"
        if line["accuracy"] is not None:
            accuracy = f"{line['accuracy']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
        if "after" in line:
            after = f"{line['before']:.3f} to {line['after']:.3f} +- {line['error']:.3f}"
        tokens = "-" if line["tokens_chosen"] is None else f"{line['tokens_chosen']:.0f}"
        kept = f"{line['kept']} of {line['rows']}"
        where = line["where"].rpartition(": ")[2]
        yield f"| {where} | {line['test']} | {kept} | {accuracy} | {tokens} | {after} |"


def ends(run: Path, model: str) -> None:
    """Print what the last token costs the plain view, and closeness with and without it.

    Closeness is m.plain.plain - m.plain.<drawn> in nats/token; every response is scored once, on
    the CPU in float32, as transformers' own chat template renders its prompt.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    scores = load_scores(run, dry=True)
    costs: dict[str, list[Any]] = {"good": [], "bad": [], "plain": []}
    for line in scores.lines(np.arange(len(scores))):
        row = Row.from_json(orjson.loads(line))
        turns = [message.to_json() for message in row.messages]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        for view, found in costs.items():
            ids = list(row.responses[view].token_ids)  # type: ignore[index]
            with torch.no_grad():
                logps = network(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
            at = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
            found.append(logps[at, torch.tensor(ids)].numpy())
            assert abs(found[-1].sum() - row.logp["plain", view]) < 0.1  # type: ignore[index]
    own = np.array([one.mean() for one in costs["plain"]])
    for view, side in (("good", "chosen"), ("bad", "rejected")):
        tokens = np.array([len(one) for one in costs[view]])
        closeness = own - [one.mean() for one in costs[view]]
        without = own - [one[:-1].mean() for one in costs[view]]
        last = np.array([one[-1] for one in costs[view]])
        print(
            f"{side}: {tokens.mean():.1f} tokens, last token {last.mean():.2f} nats (median "
            f"{np.median(last):.2f}), closeness {closeness.mean():.3f} (Spearman with tokens "
            f"{spearman(closeness, tokens):.2f}), without the last token {without.mean():.3f} "
            f"({spearman(without, tokens):.2f})"
        )


if __name__ == "__main__":
    raise SystemExit(main())
