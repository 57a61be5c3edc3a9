"""Model directories that are hostile or broken."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.hostile.cases import Case, Outcome, Place, refused

MARKER = "a pickle was loaded"
REMOTE = "import pathlib\npathlib.Path({!r}).write_text('')\nclass Policy: pass\n"
REFUSES_TEMPLATE = refused("the chat template cannot render one user turn")


class MakesFile:
    """What a pickle can do: here it makes a directory."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.file,))


def model(
    title: str,
    change: Callable[[Path, Place], object],
    outcome: Outcome,
    *options: str,
    engine: bool = False,
    as_nobody: bool = False,
) -> Case:
    """A case that is a changed copy of the tiny policy."""

    def make(place: Place) -> list[str]:
        folder = place.model()
        change(folder, place)
        place.run.mkdir()
        place.run.chmod(0o777)
        return place.generate(*options, model=folder)

    return Case(
        name=title, area="models", make=make, outcome=outcome, engine=engine, as_nobody=as_nobody
    )


def put(name: str, content: bytes | str) -> Callable[[Path, Place], object]:
    """A change: the file `name` has this content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder, place: (folder / name).write_bytes(data)


def merged(name: str, **fields: object) -> Callable[[Path, Place], object]:
    """A change: the JSON file `name` has these fields, too."""

    def change(folder: Path, place: Place) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | fields))

    return change


def template(title: str, source: str, outcome: Outcome) -> Case:
    return model(f"template: {title}", put("chat_template.jinja", source), outcome)


def _pickled(folder: Path, place: Place) -> None:
    """The weights as `torch.save` writes them, with a pickle that makes a file."""
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(MakesFile(place.folder / MARKER)))
        archive.writestr("archive/version", "3\n")


def _bare_pickle(folder: Path, place: Place) -> None:
    """A pickle that calls itself safetensors."""
    data = pickle.dumps(MakesFile(place.folder / MARKER))
    (folder / "model.safetensors").write_bytes(data)


def put_remote_code(folder: Path, place: Path, *names: str) -> Path:
    """Python code that comes with a model, named in these files; returns what it would make."""
    marker = place / "code ran"
    (folder / "policy.py").write_text(REMOTE.format(str(marker)))
    for name in names:
        content = json.loads((folder / name).read_text())
        if name == "config.json":
            content["auto_map"] = dict.fromkeys(
                ("AutoConfig", "AutoModelForCausalLM"), "policy.Policy"
            )
            content["model_type"] = "policy_of_the_author"
        else:
            content["auto_map"] = {"AutoTokenizer": ["policy.Policy", None]}
            content["tokenizer_class"] = "Policy"
        (folder / name).write_text(json.dumps(content))
    return marker


def _remote(*names: str) -> Callable[[Path, Place], object]:
    return lambda folder, place: put_remote_code(folder, place.folder, *names)


def _weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Place], None]:
    def changed(folder: Path, place: Place) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return changed


def _special(make: Callable[[Path], object], name: str) -> Callable[[Path, Place], None]:
    def change(folder: Path, place: Place) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def _cut(name: str, size: int) -> Callable[[Path, Place], object]:
    return lambda folder, place: os.truncate(folder / name, size)


TOKENIZERS = [
    model("a tokenizer that is no JSON", put("tokenizer.json", "{"), refused("tokenizer")),
    model("a tokenizer that is a list", put("tokenizer.json", "[]"), refused("tokenizer")),
    model("a cut tokenizer", _cut("tokenizer.json", 900), refused("tokenizer")),
    model("an empty tokenizer", put("tokenizer.json", ""), refused("tokenizer")),
    model("a tokenizer of NUL bytes", put("tokenizer.json", bytes(99)), refused("tokenizer")),
    model(
        "a tokenizer of an unknown kind",
        merged("tokenizer.json", model={"type": "Magic"}),
        refused("tokenizer"),
    ),
    model(
        "a tokenizer without a vocabulary",
        merged("tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []}),
        refused("the tokenizer returns no tokens"),
    ),
    model("a deep tokenizer", put("tokenizer.json", '{"model":' * 5000), refused("tokenizer")),
    model(
        "a tokenizer configuration that is a list",
        put("tokenizer_config.json", "[]"),
        refused("tokenizer"),
    ),
    model(
        "a template that is a number",
        lambda folder, place: (
            (folder / "chat_template.jinja").unlink(),  # type: ignore[func-returns-value]
            merged("tokenizer_config.json", chat_template=3)(folder, place),
        ),
        refused("model: its tokenizer|chat template"),
    ),
    model(
        "templates by name without a default",
        lambda folder, place: (
            (folder / "chat_template.jinja").unlink(),  # type: ignore[func-returns-value]
            merged("tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])(
                folder, place
            ),
        ),
        refused("tokenizer"),
    ),
]

TEMPLATES = [
    template(
        "Python's classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}", REFUSES_TEMPLATE
    ),
    template("globals of a function", "{{ cycler.__init__.__globals__.os }}", REFUSES_TEMPLATE),
    template("attr", "{{ ''|attr('__class__') }}", refused("exactly once")),
    template("format", "{{ '{0.__class__.__mro__}'.format('') }}{{ x.y }}", REFUSES_TEMPLATE),
    template("an import", "{% import 'os' as os %}{{ os.system('id') }}", REFUSES_TEMPLATE),
    template("an include", "{% include '/etc/passwd' %}", REFUSES_TEMPLATE),
    template("a change of the messages", "{{ messages.append(1) }}", REFUSES_TEMPLATE),
    template("a range bomb", "{% for i in range(10**9) %}x{% endfor %}", REFUSES_TEMPLATE),
    template("no end", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", REFUSES_TEMPLATE),
    template("an unclosed block", "{% for m in messages %}", REFUSES_TEMPLATE),
    template("an undefined name's field", "{{ a.b.c }}", REFUSES_TEMPLATE),
    template("a division by zero", "{{ 1 / 0 }}", REFUSES_TEMPLATE),
    template("an exception of its own", "{{ raise_exception('a\nb\x1b[2J') }}", REFUSES_TEMPLATE),
    template(
        "nothing of the user's", "hello", refused("does not show the user's turn exactly once")
    ),
    template("the user twice", "{{ messages[0].content * 2 }}", refused("exactly once")),
    template("a gigabyte", "{{ 'x' * (2**26 + 9) }}{{ messages[0].content }}", REFUSES_TEMPLATE),
    template("empty", "", refused("no chat template")),
    model("template: not UTF-8", put("chat_template.jinja", b"\xff\xfe\xff"), refused("tokenizer")),
]

CONFIGS = [
    model("no config.json", lambda f, p: (f / "config.json").unlink(), refused("no config.json")),
    model(
        "a config.json that is a list", put("config.json", "[]"), refused("model: "), engine=True
    ),
    model(
        "a config.json that is a number", put("config.json", "7"), refused("model: "), engine=True
    ),
    model("an empty config.json", put("config.json", ""), refused("model: "), engine=True),
    model("a cut config.json", _cut("config.json", 100), refused("model: "), engine=True),
    model("a deep config.json", put("config.json", "[" * 9999), refused("model: "), engine=True),
    model("a config.json of UTF-16", put("config.json", "{}".encode("utf-16")), refused("model: ")),
    model(
        "a config.json that is a directory", _special(Path.mkdir, "config.json"), refused("config")
    ),
    model(
        "an unknown architecture",
        merged("config.json", model_type="magic", architectures=["Magic"]),
        refused("model: .*(magic|Magic)"),
        engine=True,
    ),
    model(
        "an encoder and a decoder",
        merged("config.json", model_type="t5", architectures=["T5ForConditionalGeneration"]),
        refused("model: is an encoder-decoder model .t5.; use a causal"),
    ),
    model(
        "layers that are a text",
        merged("config.json", num_hidden_layers="three"),
        refused("model: |engine"),
        engine=True,
    ),
    model(
        "minus one layer",
        merged("config.json", num_hidden_layers=-1),
        refused("model: |engine"),
        engine=True,
    ),
    model(
        "a vocabulary of another size",
        merged("config.json", vocab_size=1000),
        refused("model: |engine"),
        engine=True,
    ),
    model(
        "a context that is a text",
        merged("config.json", max_position_embeddings="long"),
        refused("model: |engine"),
        engine=True,
    ),
    model(
        "no context",
        merged("config.json", max_position_embeddings=None),
        refused("model: |engine"),
        engine=True,
    ),
    model(
        "an end-of-sequence id that is a text",
        merged("generation_config.json", eos_token_id="two"),
        refused("model: |engine|generation_config"),
        engine=True,
    ),
    model(
        "a generation_config.json that is a list",
        put("generation_config.json", "[]"),
        refused("generation_config"),
        engine=True,
    ),
]

WEIGHTS = [
    model("cut weights", _cut("model.safetensors", 5000), refused("damaged safetensors file")),
    model("empty weights", _cut("model.safetensors", 0), refused("damaged safetensors file")),
    model(
        "a header of 2^63",
        put("model.safetensors", struct.pack("<Q", 2**63)),
        refused("incomplete or damaged"),
    ),
    model(
        "a header that is no JSON",
        put("model.safetensors", struct.pack("<Q", 8) + b"garbage!"),
        refused("damaged safetensors file"),
    ),
    model(
        "a header that points beyond the file",
        put(
            "model.safetensors",
            struct.pack("<Q", 64)
            + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64),
        ),
        refused("damaged safetensors file"),
    ),
    model(
        "one byte too few",
        lambda folder, place: os.truncate(
            folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1
        ),
        refused("damaged safetensors file"),
    ),
    model(
        "a weight is missing",
        _weights(lambda tensors: tensors.pop("model.norm.weight")),
        refused("1 weights are missing .*model.norm.weight"),
        engine=True,
    ),
    model(
        "a weight of another shape",
        _weights(lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:7].clone()})),
        refused(r"1 weights have another size .*model.norm.weight, \[7\] and not \[128\]"),
        engine=True,
    ),
    model("pickled weights only", _pickled, refused("only safetensors weights are loaded")),
    model("a pickle named safetensors", _bare_pickle, refused("damaged safetensors file")),
    model("a FIFO as weights", _special(os.mkfifo, "model.safetensors"), refused("neither a file")),
    model("a FIFO beside them", _special(os.mkfifo, "merges.txt"), refused("neither a file nor")),
    model(
        "a link to /dev/zero",
        _special(lambda file: file.symlink_to("/dev/zero"), "generation_config.json"),
        refused("neither a file nor a directory"),
    ),
    model(
        "weights that may not be read",
        lambda folder, place: (folder / "model.safetensors").chmod(0),
        refused("model"),
        as_nobody=True,
    ),
    model(
        "a configuration that may not be read",
        lambda folder, place: (folder / "config.json").chmod(0),
        refused("model"),
        as_nobody=True,
    ),
]

NEEDS_TRUST = refused("includes Python code, .*disabled; .*engine.trust_remote_code=true")
REMOTES = [
    model(
        "a tokenizer with code of its own",
        _remote("tokenizer_config.json"),
        NEEDS_TRUST,
    ),
    model(
        "a model with code of its own",
        _remote("config.json"),
        NEEDS_TRUST,
        engine=True,
    ),
    model(
        "both with code of their own",
        _remote("config.json", "tokenizer_config.json"),
        NEEDS_TRUST,
        engine=True,
    ),
]

CASES = [*TOKENIZERS, *TEMPLATES, *CONFIGS, *WEIGHTS, *REMOTES]
