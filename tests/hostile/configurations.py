"""Configurations that are hostile or broken: YAML files, --set, options."""

import json
import os
from collections.abc import Callable, Sequence

from sso_data.world import policy_dir
from tests.hostile.cases import ADDRESS, QUESTION, Case, Outcome, Place, accepted, refused

ASKED = accepted("What is 2 plus 3?")
LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)
)
MODEL = f"model: {policy_dir()}\n"
TOKEN = "hf_" + "Zq7" * 12


def config(title: str, content: bytes | str, outcome: Outcome) -> Case:
    """A case that is one file after --config; no option takes the place of what it says."""

    def make(place: Place) -> list[str]:
        file = place.write("run.yaml", content)
        prompts = place.write("q.jsonl", QUESTION)
        words = ["generate", str(prompts), "--out", str(place.run), "--engine=transformers"]
        return [*words, "--config", str(file)]

    return Case(name=title, area="configurations", make=make, outcome=outcome)


def setting(text: str, outcome: Outcome, title: str = "") -> Case:
    """A case that is one --set."""

    def make(place: Place) -> list[str]:
        return place.generate("--set", text)

    return Case(name=title or f"--set {text}", area="configurations", make=make, outcome=outcome)


def command(title: str, make: Callable[[Place], Sequence[str]], outcome: Outcome) -> Case:
    return Case(name=title, area="configurations", make=make, outcome=outcome)


def _fifo_config(place: Place) -> list[str]:
    (place.folder / "run.yaml").mkdir()
    return place.generate("--config", place.folder / "run.yaml")


def _loop(place: Place) -> list[str]:
    (place.folder / "run.yaml").symlink_to("run.yaml")
    return place.generate("--config", place.folder / "run.yaml")


FILES = [
    config("a billion laughs", LAUGHS, refused("more than 50000 values; use fewer aliases")),
    config(
        "laughs where a number belongs",
        LAUGHS.replace("a0: &a0", "filter: {}\na0: &a0") + "sampling: {top_p: *a29}\n",
        refused("more than 50000 values"),
    ),
    config(
        "few laughs",
        "sampling: {top_p: &a [[[1, 2], 3], 4]}\n",
        refused("sampling.top_p: .*number"),
    ),
    config(
        "an alias of itself",
        "views: &a {template_kwargs: {x: *a}}",
        refused("a value that contains it"),
    ),
    config("merge keys", "a: &a {x: 1}\nb: {<<: [*a, *a]}\n", refused("unknown key 'a'")),
    config("a key twice", "seed: 1\nseed: 2\n", refused('found duplicate key "seed"')),
    config(
        "a section twice",
        "sampling: {}\nfilter: {}\nsampling: {top_p: 1}\n",
        refused("duplicate key"),
    ),
    config(
        "a Python object", "model: !!python/object/apply:os.system [id]\n", refused("constructor")
    ),
    config(
        "a Python name", "seed: !!python/name:os.system\n", refused("could not determine a constr")
    ),
    config("an unknown tag", "seed: !wat 3\n", refused("could not determine a constructor")),
    config("binary", "model: !!binary aGVsbG8=\n", refused("could not determine a constructor")),
    config("a set", "steering: {features: !!set {a, b}}\n", refused("could not determine")),
    config("two documents", "seed: 1\n---\nseed: 2\n", refused("single document")),
    config("JSON is YAML", json.dumps({"model": str(policy_dir()), "seed": 7}), ASKED),
    config("tabs", "sampling:\n\ttop_p: 1\n", refused("not readable as YAML.*tab|token")),
    config("NUL", b"seed: 1\x00", refused("not readable as YAML.*not allowed")),
    config("NUL in a path", MODEL + 'principles: "a\\0b"\n', refused("a.b: no such directory")),
    config("NUL in a model's path", 'model: "/a\\0b"\n', refused("a.b: no such model")),
    config("UTF-16", "seed: 1\n".encode("utf-16"), refused("not UTF-8")),
    config("Latin-1", "model: ü\n".encode("latin-1"), refused("not UTF-8")),
    config("a mark of UTF-8", b"\xef\xbb\xbf" + MODEL.encode(), ASKED),
    config("half a surrogate", 'model: "\\ud800"\n', refused("run.yaml: ")),
    config("half a surrogate in a section", 'source: {column: "\\udfff"}', refused("run.yaml: ")),
    config("deep", "seed: " + "[" * 50_000, refused("nested too deeply")),
    config("deep mappings", "{a: " * 3000 + "1" + "}" * 3000, refused("nested too deeply")),
    config("a megabyte", "seed: 1 # " + "x" * 2**20, refused("longer than 256 KiB")),
    config("a text", "seed", refused("must be a mapping")),
    config("a list of keys", "[seed, 1]", refused("must be a mapping")),
    config("keys that are no texts", "{1: 2, null: 3}", refused("must be a mapping")),
    config("empty", "", refused("no model given")),
    config("nothing but null", "null", refused("no model given")),
    config("a section that is null", "sampling: null\n", refused("sampling: ")),
    config("a section that is a list", "sampling: [1]\n", refused("sampling: ")),
    config("a key of a key", "sampling: {top_p: {x: 1}}\n", refused("sampling.top_p: .*number")),
    config("a key with a line break", '"a\\nb": 1\n', refused("unknown key 'a.nb'|unknown key")),
    config("an escape in a key", '"\\e[2Ja": 1\n', refused("unknown key")),
    config("a token", f"engine: {{vllm: {{hf_token: {TOKEN}}}}}", refused("looks like an access")),
    config(
        "a password in an address",
        f"views: {{template_kwargs: {{x: '{ADDRESS}'}}}}",
        refused("looks like an access token"),
    ),
    config(
        "a variable of the environment",
        "model: ${HOME}\n",
        refused("HOME.: neither a model directory"),
    ),
    command("a directory as --config", _fifo_config, refused("not readable as YAML.*directory")),
    command("a loop of links as --config", _loop, refused("run.yaml: not readable.*links")),
    command(
        "/dev/zero as --config",
        lambda place: place.generate("--config", "/dev/zero"),
        refused("/dev/zero: not readable as YAML: longer than"),
    ),
    command("/dev/null as --config", lambda place: place.generate("--config", "/dev/null"), ASKED),
]

SETTINGS = [
    setting("sampling.top_p=.nan", refused("sampling.top_p")),
    setting("sampling.temperature=.inf", refused("sampling.temperature")),
    setting("steering.concision_probability=.nan", refused("steering.concision_probability")),
    setting("engine.gpu_memory_utilization=-0.0", refused("engine.gpu_memory_utilization")),
    setting("filter.gap=.nan", refused("filter.gap: must be a number")),
    setting("filter.gap=-1e-300", refused("filter.gap: must be a number")),
    setting("filter.gap=[1]", refused("filter.gap: must be a number")),
    setting("steering.weights={Safety: .inf}", refused("steering.weights")),
    setting("steering.weights={Safety: -1}", refused("steering.weights")),
    setting("steering.features={Safety: 1}", refused("steering.features")),
    setting("steering.count=1e30", refused("steering.count|count")),
    setting("seed=9223372036854775808", refused("seed: .*less than")),
    setting("seed=" + "9" * 5000, refused("not valid YAML"), "a seed of 5,000 digits"),
    setting("seed=0x" + "f" * 5000, refused("seed: .*less than .*got a int"), "5,000 hex digits"),
    setting("seed=[1]", refused("seed: ")),
    setting("seed=1.5", refused("seed")),
    setting("scoring.verify_rows=-1", refused("scoring.verify_rows")),
    setting("sampling.max_tokens=0", refused("sampling.max_tokens")),
    setting("source.limit=0", refused("source.limit")),
    setting("source.limit=no", refused("source.limit")),
    setting("source.skip_bad_rows=maybe", refused("source.skip_bad_rows")),
    setting("=1", refused("write it as key=value"), "no key"),
    setting("seed", refused("write it as key=value"), "no value"),
    setting("..=1", refused("unknown key"), "dots alone"),
    setting(".".join(["a"] * 5000) + "=1", refused("unknown key 'a'"), "5,000 dots"),
    setting(
        "sampling.top_p." + ".".join(["x"] * 5000) + "=1",
        refused("sampling.top_p: .*number"),
        "a number with 5,000 keys in it",
    ),
    setting("__class__=1", refused("unknown key '__class__'")),
    setting("model_config={extra: allow}", refused("unknown key 'model_config'")),
    setting("sampling.__dict__={}", refused("unknown key 'sampling.__dict__'")),
    setting("engine.vllm.trust_remote_code=true", refused("engine.vllm.trust_remote_code cannot")),
    setting("engine.vllm.model=/etc", refused("engine.vllm.model cannot be set")),
    setting("views.template_kwargs={x: .nan}", refused("views.template_kwargs")),
    setting("views.template_kwargs=[1]", refused("views.template_kwargs")),
    setting("views.template_kwargs={tokenize: true}", refused("tokenize is reserved")),
    setting("views.template_kwargs={chat_template: x}", refused("chat_template is reserved")),
    setting("views.date=2024-02-30", refused("views.date")),
    setting("views.date=٢٠٢٤-٠٧-٠١", refused("views.date"), "a date in Arabic digits"),
    setting("engine.adapter=" + "a" * 5000, refused("adapter|too long"), "a path of 5,000 letters"),
    setting('model="a\\nb"', refused("a b: neither a model directory"), "a line break in a path"),
    setting("model=~nobody_here/x", refused("no such model|cannot be read"), "no such user"),
    setting(
        "model=" + "a" * 5000, refused("cannot be read: .*too long"), "a model of 5,000 letters"
    ),
]


def _other_locale(place: Place) -> list[str]:
    name = os.fsdecode(b"caf\xe9")
    (place.folder / name).mkdir()
    return place.generate("--principles", place.folder / name)


OPTIONS = [
    command(
        "a principles path that is not UTF-8", _other_locale, refused("principles|UTF-8|utf-8")
    ),
    command(
        "--seed with 30 digits",
        lambda place: place.generate("--seed", "9" * 30),
        refused("seed: .*less than"),
    ),
    command("--seed a", lambda place: place.generate("--seed", "a"), refused(code=2)),
    command("--limit -1", lambda place: place.generate("--limit", "-1"), refused("source.limit")),
    command("an empty --column", lambda p: p.generate("--column", ""), refused("no column ''")),
    command(
        "--engine with a path", lambda p: p.generate("--engine", "/bin/sh"), refused("engine.na")
    ),
    command("no prompts at all", lambda p: p.generate(prompts=""), refused("no prompts given")),
    command("an unknown option", lambda p: p.generate("--trust-remote-code"), refused(code=2)),
    command("an unknown command", lambda place: ["genrate"], refused(code=2)),
    command("a command without its argument", lambda place: ["generate"], refused(code=2)),
    command("--set without a value", lambda p: p.generate("--set"), refused(code=2)),
]

CASES = [*FILES, *SETTINGS, *OPTIONS]
