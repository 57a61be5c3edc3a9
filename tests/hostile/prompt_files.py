"""Prompt files that are broken as files: encodings, compressions, formats, places."""

import gzip
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tests.hostile.cases import (
    QUESTION,
    Case,
    Outcome,
    Place,
    accepted,
    prompts,
    refused,
    rows_fail,
)

MIB = 2**20
ZSTD = b"\x28\xb5\x2f\xfd"
TABLE = "prompt,id\nWhat is 2 plus 3?,1\n"
TURNS = [{"role": "user", "content": "What is 2 plus 3?"}]
ASKED = accepted("What is 2 plus 3?")
BAD_ROW = "; correct the row, or leave such rows out with --skip-bad-rows"


def _without_mark(encoding: str) -> list[Case]:
    refusal = refused("not UTF-8 .*(UTF-16|UTF-32).*save it as UTF-8")
    texts = {"jsonl": QUESTION, "csv": TABLE, "txt": "Hi\n", "json": f"[{QUESTION}]"}
    return [
        prompts(f"p.{kind}", text.encode(encoding), refusal, title=f"{encoding} {kind}")
        for kind, text in texts.items()
    ]


ENCODINGS = [
    *_without_mark("utf-16-le"),
    *_without_mark("utf-16-be"),
    *_without_mark("utf-32-le"),
    prompts("p.jsonl", QUESTION.encode("utf-16"), refused("p.jsonl:1: not UTF-8"), title="utf-16"),
    prompts("p.txt", "Hi\n".encode("utf-32"), refused("p.txt:1: not UTF-8"), title="utf-32"),
    prompts(
        "p.jsonl",
        '{"prompt": "Grüß"}\n'.encode("latin-1"),
        refused(r"p\.jsonl:1: not UTF-8 \(byte 0xfc at byte 15\); correct the row"),
        title="latin-1 jsonl",
    ),
    prompts("p.json", '[{"prompt": "ü"}]'.encode("latin-1"), refused(":1: not UTF-8"), title="l1"),
    prompts(
        "p.csv", "prompt\nü\n".encode("latin-1"), refused(r"\.csv:2: not UTF-8"), title="l1 csv"
    ),
    prompts("p.txt", "ü\n".encode("cp1252"), refused(r"\.txt:1: not UTF-8"), title="cp1252 text"),
    prompts("p.jsonl", b"\xef\xbb\xbf" + QUESTION.encode(), ASKED, title="a mark of UTF-8"),
    prompts("p.jsonl", b"\xef\xbb\xbf" * 2 + QUESTION.encode(), ASKED, title="two marks of UTF-8"),
    prompts(
        "p.jsonl", b'{"prompt": "\xc0\xaf"}\n', refused(":1: not UTF-8"), title="overlong UTF-8"
    ),
    prompts(
        "p.txt", b"a\xed\xa0\x80b\n", refused(":1: not UTF-8"), title="a surrogate as UTF-8 bytes"
    ),
    prompts("p.txt", "+AGE-\n", accepted("+AGE-"), title="UTF-7 is plain text"),
    prompts("p.txt", "a\x00b\nc\n", accepted("a\x00b", "c"), title="NUL in a text"),
    prompts("p.jsonl", b'{"prompt": "a\x00b"}\n', refused(":1: not valid JSON"), title="a raw NUL"),
    prompts("p.jsonl", b"\x00" * 512, refused(":1: not UTF-8"), title="nothing but NUL bytes"),
]

FORMATS = [
    prompts("p.jsonl", gzip.compress(QUESTION.encode()), refused("gzip.*end in .gz"), title="gzip"),
    prompts("p.csv", gzip.compress(TABLE.encode()), refused("gzip.*end in .gz"), title="gzip csv"),
    prompts("p.jsonl", ZSTD + b"\x04\x00", refused("Zstandard.*end in .zst"), title="zstd"),
    prompts("p.jsonl.gz", ZSTD + b"\x04\x00", refused("Not a gzipped file"), title="zstd as .gz"),
    prompts("p.jsonl", b"PK\x03\x04" + bytes(40), refused("zip.*unpack it"), title="zip"),
    prompts("p.jsonl", b"BZh91AY&SY" + bytes(9), refused("bzip2.*end in .bz2"), title="bzip2"),
    prompts("p.jsonl", b"\xfd7zXZ\x00" + bytes(9), refused("xz.*end in .xz"), title="xz"),
    prompts("p.jsonl", b"PAR1" + bytes(90), refused("Parquet.*end in .parquet"), title="Parquet"),
    prompts(
        "p.jsonl", b"\x7fELF\x02\x01\x01" + bytes(50), refused(":1: not valid JSON"), title="ELF"
    ),
    prompts("p.csv", b"%PDF-1.7\n", refused("no column 'prompt'"), title="PDF as CSV"),
    prompts(
        "p.jsonl.gz",
        gzip.compress(QUESTION.encode()) * 2,
        accepted(*["What is 2 plus 3?"] * 2),
        title="two gzip files in one",
    ),
    prompts(
        "p.jsonl.gz",
        gzip.compress(QUESTION.encode()) + b"rubbish",
        refused("cannot be read: Not a gzipped file"),
        title="rubbish after gzip",
    ),
    prompts(
        "p.jsonl.gz",
        gzip.compress(b" " * (64 * MIB + 9), 1),
        refused(":1: longer than 64 MiB; write one row a line"),
        title="a gzip bomb",
    ),
    prompts("p.jsonl", b"\n" * MIB, refused("holds no prompts"), title="a MiB of line ends"),
    prompts("p.jsonl", b"[]\n", refused("is a JSON array.*end in .json"), title="an array"),
    prompts("p.json", b"{}", refused("must hold an array"), title="an object as .json"),
    prompts("p.json", b"[]", refused("holds no prompts"), title="an empty array"),
    prompts("p.json", f"[{QUESTION}", refused(":2: not valid JSON"), title="a cut array"),
    prompts("p.json", f"[{QUESTION}][]", refused("extra text after the end"), title="two arrays"),
    prompts("p.json", f"[{QUESTION},]", refused("not valid JSON"), title="a comma too many"),
    prompts("p.json", "[" * 100_000, refused("nested too deeply"), title="a deep array"),
    prompts("p.json", '["a"]', refused(":1: text, not an object"), title="an array of texts"),
    prompts("p.json", '[{"prompt": NaN}]', refused("NaN is not a number"), title="NaN in an array"),
    prompts(
        "p.json",
        '[{"prompt": "a",\n"prompt": "b"}]',
        refused(":1: not valid JSON .*duplicate key 'prompt'"),
        title="a key twice in an array",
    ),
    prompts("p.csv", "prompt,id\na\n", refused(":2: the header has 2 columns, this row 1")),
    prompts(
        "p.csv",
        "prompt,id\na,1\nb,2,3\n",
        rows_fail(rows=1, malformed=1),
        "--skip-bad-rows",
        title="a row of three cells",
    ),
    prompts(
        "p.csv", 'prompt\n"a\n', refused("not valid CSV.*check its quotes"), title="open quote"
    ),
    prompts("p.csv", 'prompt\n"a"b\n', refused("not valid CSV.*check its quotes"), title="quotes"),
    prompts("p.csv", "prompt,prompt\na,b\n", refused("duplicate column 'prompt'"), title="twice"),
    prompts("p.csv", "prompt\n", refused("holds no prompts"), title="a header alone"),
    prompts("p.csv", "prompt;id\na;1\n", refused(r"separated by ';'"), title="semicolons"),
    prompts("p.csv", "prompt\r1 + 1?\r", accepted("1 + 1?"), title="old line ends"),
    prompts("p.csv", ",".join(map(str, range(200_000))) + "\n", refused("no column"), title="wide"),
    prompts("p.csv", 'prompt\n"=cmd|calc!A0"\n', accepted("=cmd|calc!A0"), title="a formula"),
    prompts("p.tsv", "prompt\tid\na\t\t1\n", refused(":2: the header has 2 columns"), title="tabs"),
    prompts("p.parquet", b"PAR1", refused("cannot be read as Parquet"), title="four bytes"),
    prompts("p.parquet", QUESTION, refused("cannot be read as Parquet"), title="JSONL as .parquet"),
]


def table(title: str, columns: dict[str, pa.Array], outcome: Outcome, *options: object) -> Case:
    """A case that is one Parquet file."""

    def make(place: Place) -> list[str]:
        file = place.folder / "p.parquet"
        parquet.write_table(pa.table(columns), file)
        return place.generate(*options, prompts=file)

    return Case(name=f"Parquet: {title}", area="prompt files", make=make, outcome=outcome)


def _cut_parquet(place: Place) -> list[str]:
    file = place.folder / "p.parquet"
    parquet.write_table(pa.table({"prompt": ["What is 2 plus 3?"] * 500}), file)
    file.write_bytes(file.read_bytes()[:-30])
    return place.generate(prompts=file)


def _torn_parquet(place: Place) -> list[str]:
    """The footer is whole, the pages before it are not."""
    file = place.folder / "p.parquet"
    parquet.write_table(pa.table({"prompt": [f"question {n}" for n in range(5000)]}), file)
    data = bytearray(file.read_bytes())
    data[60:4000] = b"\xff" * 3940
    file.write_bytes(data)
    return place.generate(prompts=file)


def _not_utf8() -> pa.Array:
    return pa.array([b"ok", b"a\xff"], pa.binary()).cast(pa.string(), safe=False)


TABLES = [
    Case(name="Parquet: cut", area="prompt files", make=_cut_parquet, outcome=refused("Parquet")),
    Case(name="Parquet: torn", area="prompt files", make=_torn_parquet, outcome=refused("Parquet")),
    table("messages", {"prompt": pa.array([TURNS])}, ASKED),
    table(
        "a struct", {"prompt": pa.array([{"text": "a"}])}, refused("row 1: 'prompt' is an object")
    ),
    table("numbers", {"prompt": pa.array([1, 2])}, refused("row 1: 'prompt' is a number")),
    table("null", {"prompt": pa.array(["a", None])}, refused("row 2: 'prompt' is null")),
    table("bytes", {"prompt": pa.array([b"a"])}, refused("row 1: 'prompt' is bytes")),
    table("texts", {"prompt": pa.array([["a"]])}, accepted("a")),
    table("no rows", {"prompt": pa.array([], pa.string())}, refused("holds no prompts")),
    table("another column", {"text": pa.array(["a"])}, refused("no column 'prompt'")),
    table("not UTF-8", {"prompt": _not_utf8()}, refused("row 2: a text is not UTF-8")),
    table(
        "a NaN beside it",
        {"prompt": pa.array(["a"]), "x": pa.array([float("nan")])},
        refused("row 1: 'x' holds nan"),
    ),
]


def place_of(
    title: str, make: Callable[[Place], object], outcome: Outcome, *, as_nobody: bool = False
) -> Case:
    """A case about where a source lies; `make` gives the source."""

    def arguments(place: Place) -> list[str]:
        source = make(place)
        if as_nobody:
            place.run.mkdir(mode=0o777)
            place.run.chmod(0o777)
        return place.generate(prompts=source)

    return Case(
        name=f"source: {title}",
        area="prompt files",
        make=arguments,
        outcome=outcome,
        as_nobody=as_nobody,
    )


def _linked(target: str) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        link = place.folder / "p.jsonl"
        link.symlink_to(target)
        return link

    return make


def _fifo(place: Place) -> Path:
    os.mkfifo(place.folder / "p.jsonl")
    return place.folder / "p.jsonl"


def _socket(place: Place) -> Path:
    file = place.folder / "p.jsonl"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(file))
    return file


def _folder(files: dict[str, bytes | str]) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        (place.folder / "data").mkdir()
        for name, content in files.items():
            place.write(f"data/{name}", content)
        return place.folder / "data"

    return make


def _secret_file(place: Place) -> Path:
    file = place.write("p.jsonl", QUESTION)
    file.chmod(0)
    return file


def _named(name: str | bytes, content: str = "") -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        return place.write(os.fsdecode(name), content)

    return make


SCRIPT = """
import pathlib
pathlib.Path(__file__).with_name("ran").write_text("")
"""
OUTSIDE = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"


def _card_that_points_outside(path: str) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        place.write("outside.jsonl", QUESTION)
        (place.folder / "data").mkdir()
        place.write("data/README.md", OUTSIDE.format(path.format(place.folder)))
        return place.folder / "data"

    return make


def _saved_that_points_outside(place: Place) -> Path:
    from datasets import Dataset

    Dataset.from_dict({"prompt": ["private"]}).save_to_disk(place.folder / "other")
    Dataset.from_dict({"prompt": ["a"]}).save_to_disk(place.folder / "saved")
    state = place.folder / "saved" / "state.json"
    content = json.loads(state.read_text())
    [part] = content["_data_files"]
    part["filename"] = f"../other/{part['filename']}"
    state.write_text(json.dumps(content))
    return place.folder / "saved"


ELSEWHERE = refused(r"README.md \(data_files\) refers to data outside it .*outside.jsonl")
ELSEWHERE_SAVED = refused("state.json .* refers to data outside it")
PLACES = [
    place_of("a FIFO", _fifo, refused("not a regular file")),
    place_of("a socket", _socket, refused("not a regular file")),
    place_of("a link to /dev/null", _linked("/dev/null"), refused("not a regular file")),
    place_of("a link to /dev/zero", _linked("/dev/zero"), refused("not a regular file")),
    place_of("/dev/null", lambda place: "/dev/null", refused("not a regular file")),
    place_of("a loop of links", _linked("p.jsonl"), refused("no such file|links")),
    place_of("a dangling link", _linked("nowhere"), refused("no such file")),
    place_of("a line break in its name", _named("a\nb.jsonl"), refused("the file is empty")),
    place_of("an escape in its name", _named("a\x1b[2J.jsonl"), refused("the file is empty")),
    place_of("a name that is not UTF-8", _named(b"a\xff.jsonl"), refused("the file is empty")),
    place_of("a bad row behind a line break", _named("a\nb.jsonl", "1\n"), refused(":1: a number")),
    place_of("a name of 300 letters", lambda place: "a" * 300 + ".jsonl", refused("too long")),
    place_of("a path through a file", lambda p: p.write("f", "a") / "p.jsonl", refused("no such")),
    place_of("no permission", _secret_file, refused("Permission denied"), as_nobody=True),
    place_of("a web address", lambda place: "https://a.invalid/p.jsonl", refused("no such file")),
    place_of("an object store", lambda place: "s3://bucket/p.jsonl", refused("no such file")),
    place_of("a Hub file system", lambda place: "hf://datasets/a/b", refused("no such file")),
    place_of("a Hub id", lambda place: "nobody/nothing", refused("nobody/nothing: .*Hub")),
    place_of("an option's look", lambda place: "./--out", refused("no such file")),
    place_of("an empty directory", _folder({}), refused("no data files")),
    place_of("a directory of a script", _folder({"data.py": SCRIPT}), refused("data")),
    place_of("a directory of pickles", _folder({"train.pkl": b"\x80\x04."}), refused("data")),
    place_of(
        "a broken saved dataset", _folder({"state.json": "[]"}), refused("`datasets` cannot read")
    ),
    place_of(
        "saved splits that are a number",
        _folder({"dataset_dict.json": '{"splits": 3}'}),
        refused("`datasets` cannot read"),
    ),
    place_of("a saved dataset of data elsewhere", _saved_that_points_outside, ELSEWHERE_SAVED),
    place_of("a card that points up", _card_that_points_outside("../outside.jsonl"), ELSEWHERE),
    place_of("a card that points away", _card_that_points_outside("{}/outside.jsonl"), ELSEWHERE),
]


CASES = [*ENCODINGS, *FORMATS, *TABLES, *PLACES]
