"""Every byte under a run directory goes through `runs/files.py`; elsewhere nothing writes files.

What else the package writes is listed here, each with its reason. A new entry needs one, too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sso_data"

WRITING = frozenset(
    (
        *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "unlink", "rmdir", "rmtree"),
        *("rename", "renames", "removedirs", "symlink_to", "hardlink_to", "symlink", "link"),
        *("chmod", "truncate", "ftruncate", "mkstemp", "mkdtemp", "TemporaryDirectory"),
        *("NamedTemporaryFile", "TemporaryFile", "copyfile", "copytree", "copy2", "move"),
        *("save_pretrained", "save_file", "save_model", "savez", "savez_compressed", "savetxt"),
        *("to_json", "to_parquet", "to_csv", "save_to_disk", "write_table", "savefig", "mkfifo"),
    )
)
"""Names of functions and methods that change files, whatever they are called on."""

ROW_OF = {"to_json"}
"""Names above that our own records use for something else, when called without arguments."""

OF_MODULE = {
    ("os", "open"),
    ("os", "replace"),
    ("os", "remove"),
    ("os", "fsync"),
    ("torch", "save"),
    ("np", "save"),
    ("json", "dump"),
    ("pickle", "dump"),
}

EXCEPTIONS = {
    ("runs/run.py", "savez"): "an array, into memory",
    ("demo.py", "write_text"): "the demo's prompt file, before its run begins",
    ("demo.py", "TemporaryDirectory"): "a directory for a demo that was given none",
    ("publishing/numbers.py", "savefig"): "pictures, into memory",
    ("core/streams.py", "os.open"): "/dev/null in the place of a closed stream",
    ("engines/child.py", "mkstemp"): "what the engine says on stderr, in the temporary directory",
    ("engines/child.py", "unlink"): "the same file, when it was read",
    ("engines/worker.py", "os.open"): "the same file, seen from the child",
    ("engines/worker.py", "unlink"): "the same file, when the parent is gone",
    ("models/smollm2.py", "save_pretrained"): "weights and tokenizer, into the user's cache",
    (
        "models/training_model.py",
        "save_pretrained",
    ): "weights and tokenizer, into a directory swapped in",
    (
        "models/training_model.py",
        "copyfile",
    ): "tokenizer files of the policy, into the same directory",
    ("training/run.py", "save_model"): "our own function of that name, in models/training_model.py",
    ("prompts/__init__.py", "NamedTemporaryFile"): "prompts from stdin, which are read twice",
    ("runs/jsonl.py", "TemporaryFile"): "prompts that a model steers, in the temporary directory",
    ("training/card.py", "savefig"): "a picture, into memory",
    ("training/reference.py", "savez"): "references, into memory",
}


def writes(tree: ast.AST) -> Iterator[str]:
    """What in a module changes files, by the name it is called by."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name):
            if function.id == "open" and _is_writing(node, 1):
                yield "open"
            elif function.id in WRITING:
                yield function.id
        elif isinstance(function, ast.Attribute):
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            if (owner, function.attr) in OF_MODULE:
                yield f"{owner}.{function.attr}"
            elif function.attr == "open" and _is_writing(node, 0):
                yield "open"
            elif function.attr == "replace" and len(node.args) == 1 and not node.keywords:
                yield "replace"  # Path.replace; str.replace takes two
            elif function.attr in WRITING and (node.args or function.attr not in ROW_OF):
                yield function.attr


def _is_writing(node: ast.Call, place: int) -> bool:
    """Whether a call of open() gives a mode that writes; one that is no text counts as such."""
    mode = next((word.value for word in node.keywords if word.arg == "mode"), None)
    if mode is None and len(node.args) > place:
        mode = node.args[place]
    if mode is None:
        return False
    return not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+"))


def found() -> set[tuple[str, str]]:
    return {
        (str(file.relative_to(PACKAGE)), name)
        for file in PACKAGE.rglob("*.py")
        for name in writes(ast.parse(file.read_text(encoding="utf-8")))
        if file.relative_to(PACKAGE).parts != ("runs", "files.py")
    }


def test_nothing_else_writes_files() -> None:
    assert not found() - set(EXCEPTIONS), "write through runs/files.py"


def test_no_exception_is_stale() -> None:
    assert not set(EXCEPTIONS) - found()


@pytest.mark.parametrize(
    "code",
    [
        *("open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "open(p, m)", "p.write_text('')"),
        *("os.open(p, os.O_RDONLY)", "p.replace(q)", "os.replace(p, q)", "shutil.rmtree(p)"),
        *("tempfile.mkstemp()", "model.save_pretrained(p)", "table.to_json(p)", "p.mkdir()"),
    ],
)
def test_the_search_finds_what_writes(code: str) -> None:
    assert list(writes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["open(p)", "p.open('rb')", "text.replace('a', 'b')", "row.to_json()", "replace(r, x=1)"],
)
def test_the_search_leaves_reading_alone(code: str) -> None:
    assert not list(writes(ast.parse(code)))
