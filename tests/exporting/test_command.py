"""`sso-data export`: what it prints and refuses; a directory is whole, or as it was before."""

import json
import os
import shlex
import tracemalloc
from pathlib import Path

import pytest

from sso_data.core.errors import RunError
from sso_data.exporting.export import export
from sso_data.runs import files
from sso_data.runs.files import locked_file
from tests.cli.conftest import Cli, cli
from tests.exporting.making import asking, every_kind, lines_of, make_run

__all__ = ["cli"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", every_kind())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_prints_the_books_the_files_and_what_to_do_next(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "an export"
    done = cli("export", run, "--to", "llama-factory", "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "pairs 8 = exported 7 + 1 turns_do_not_alternate",
        str(out / "dataset_info.json"),
        str(out / "dpo.yaml"),
        str(out / "train.jsonl"),
        f"next: llamafactory-cli train '{out}/dpo.yaml'",
    ]
    assert "1 of 8 pairs were left out" in done.stderr
    assert "8/8 pairs\n" in done.stderr
    assert names(out) == ["dataset_info.json", "dpo.yaml", "export.json", "train.jsonl"]


def test_few_steps_and_a_machine_without_a_gpu_are_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sso_data.exporting.formats.list_gpus", list)
    done = export(run, "trl", tmp_path / "out")
    assert any("8 pairs are 1 step of 32 rows on one device (few" in note for note in done.notes)
    assert done.next.endswith("dpo.yaml --use_cpu true --bf16 false")
    monkeypatch.setattr("sso_data.exporting.formats.visible_gpus", lambda *_: [("0", None)])
    assert export(run, "trl", tmp_path / "gpu").next.endswith("dpo.yaml")


def test_a_summary_for_scripts(cli: Cli, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("export", run, "--to", "mt-bench", "--out", out, "--json", "--name", "me")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "out": str(out),
        "format": "mt-bench",
        "answers": 8,
        "exported": 1,
        "skipped": {"not_two_turns": 7},
        "files": [str(out / "me.jsonl")],
        "next": f"cp {out}/me.jsonl FASTCHAT/data/mt_bench/model_answer/",
    }


def test_the_directory_says_what_it_is(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run, "alpaca-eval", out, drawn="bad")
    assert json.loads((out / "export.json").read_text()) == {
        "schema_version": 1,
        "sso_data": "0.1.0",
        "format": "alpaca-eval",
        "model": "test/model",
        "model_fingerprint": "0123456789abcdef",
        "answers": 8,
        "exported": 6,
        "skipped": {"several_turns": 2},
        "drawn": "bad",
        "name": "model-bad",
        "files": ["model_outputs.json"],
    }


def refused(cli: Cli, *arguments: object) -> str:
    done = cli("export", *arguments)
    assert done.exit_code == 1, done.output
    assert not done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_directory_is_replaced_only_on_request(cli: Cli, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run, "trl", out)
    assert "or --overwrite to replace it" in refused(cli, run, "--to", "axolotl", "--out", out)
    assert names(out) == ["dpo.yaml", "export.json", "train.jsonl"]
    again = cli("export", run, "--to", "axolotl", "--out", out, "--overwrite")
    assert again.exit_code == 0, again.output
    assert names(out) == ["export.json", "ipo.yaml", "train.jsonl"]
    assert names(tmp_path) == ["out", "run"], "nothing is left beside it"


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_what_is_not_ours_stays(
    cli: Cli, run: Path, tmp_path: Path, overwrite: tuple[str, ...]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    said = refused(cli, run, "--to", "trl", "--out", mine, *overwrite)
    assert "not made by export (it holds thesis.tex)" in said
    out = tmp_path / "out"
    export(run, "trl", out)
    (out / "model").mkdir()
    said = refused(cli, run, "--to", "trl", "--out", out, "--overwrite")
    assert "holds model, which export did not write" in said
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in refused(cli, run, "--to", "trl", "--out", file, *overwrite)
    assert (mine / "thesis.tex").exists()
    assert (out / "model").is_dir()


def test_an_empty_directory_may_be_filled_but_not_the_one_we_are_in(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    export(run, "trl", empty)
    assert names(empty) == ["dpo.yaml", "export.json", "train.jsonl"]
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert "is the directory you are in" in refused(cli, run, "--to", "trl", "--out", ".")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "trlx"), "--to trlx: no such format; there are trl, llama-factory, axolotl"),
        (("--to", "trl", "--drawn", "good"), "--drawn is for the formats of answers, not for trl"),
        (("--to", "sso", "--name", "x"), "--name is for the formats of answers, not for sso"),
        (("--to", "mt-bench", "--drawn", "best"), "--drawn best: must be one of plain, good, bad"),
        (("--to", "mt-bench", "--name", "../x"), "--name ../x: use letters, digits"),
        (("--to", "mt-bench", "--name", "x" * 101), "at most 100 characters"),
    ],
)
def test_options_that_are_wrong(
    cli: Cli, run: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(cli, run, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_have_nothing_to_export(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no such directory" in refused(cli, tmp_path / "nowhere", "--to", "trl", "--out", out)
    unfiltered = make_run(tmp_path / "unfiltered", every_kind(), kept=False)
    said = refused(cli, unfiltered, "--to", "trl", "--out", out)
    assert f"decide on them with `sso-data filter {unfiltered}`" in said
    far = [asking(0, ("user", "a"), means={("plain", "good"): -9.0})]
    nothing = make_run(tmp_path / "nothing", far)
    assert "kept nothing to export" in refused(cli, nothing, "--to", "trl", "--out", out)
    empty = make_run(tmp_path / "empty", [])
    said = refused(cli, empty, "--to", "alpaca-eval", "--out", out)
    assert "no row is finished yet" in said
    single = make_run(tmp_path / "single", [asking(0, ("user", "a"))])
    said = refused(cli, single, "--to", "mt-bench", "--out", out)
    assert "none of its 1 answers can be exported (1 not_two_turns): mt-bench accepts" in said
    assert not out.exists()
    assert names(tmp_path) == ["empty", "nothing", "single", "unfiltered"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pairs: (pairs / "train.jsonl").write_bytes(b"{}\n"),
        lambda pairs: (pairs / "train.jsonl").write_bytes(b"[1]\n"),
        lambda pairs: (pairs / "train.jsonl").write_bytes(b"nonsense\n"),
        lambda pairs: (pairs / "train.jsonl").write_bytes(b""),
        lambda pairs: (pairs / "train.jsonl").unlink(),
        lambda pairs: (pairs / "filter.json").write_bytes(b"{"),
        lambda pairs: (pairs / "filter.json").write_bytes(b'{"kept": 1}'),
        lambda pairs: (pairs / "filter.json").write_bytes(b"[]"),
    ],
)
def test_pairs_that_were_spoilt(cli: Cli, run: Path, tmp_path: Path, spoil: object) -> None:
    spoil(run / "pairs")  # type: ignore[operator]
    refused(cli, run, "--to", "trl", "--out", tmp_path / "out")
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("spoilt", ["template_kwargs", "metadata"])
def test_rows_whose_inner_json_was_spoilt(cli: Cli, tmp_path: Path, spoilt: str) -> None:
    run = make_run(tmp_path / "run", [asking(0, ("user", "a"), **{spoilt: "no JSON"})])
    to = "trl" if spoilt == "template_kwargs" else "alpaca-eval"
    assert "not a row (" in refused(cli, run, "--to", to, "--out", tmp_path / "out")
    assert names(tmp_path) == ["run"]


def test_a_second_export_to_the_same_place_waits(cli: Cli, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked_file(tmp_path / ".out.lock") as ours:
        assert ours
        said = refused(cli, run, "--to", "trl", "--out", out)
    assert "another process writes it" in said
    assert not out.exists()


class FailsAt:
    """The k-th renaming or writing call of the operating system fails, as on a full disk."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in ("write", "replace", "fsync", "mkdir"):
            return real

        def counted(*arguments: object, **named: object) -> object:
            self.left -= 1
            if self.left == 0:
                raise OSError(28, "No space left on device")
            return real(*arguments, **named)

        return counted


def test_the_directory_is_whole_or_as_before_at_every_failing_call(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(run, "trl", out)
    before = {name: (out / name).read_bytes() for name in names(out)}
    failed = 0
    for call in range(1, 200):
        monkeypatch.setattr(files, "os", FailsAt(call))
        try:
            export(run, "openrlhf", out, overwrite=True)
        except RunError as error:
            assert "disk is full" in str(error)
            failed += 1
        else:
            break
        finally:
            monkeypatch.setattr(files, "os", os)
        if names(out) != ["dpo.sh", "export.json", "train.jsonl"]:  # else the swap was done
            assert {name: (out / name).read_bytes() for name in names(out)} == before
        export(run, "trl", out, overwrite=True)
        assert {name: (out / name).read_bytes() for name in names(out)} == before
        assert names(tmp_path) == ["out", "run"]
    assert failed > 10
    assert names(out) == ["dpo.sh", "export.json", "train.jsonl"]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (300, 1200):
        rows = [
            asking(n, ("user", f"Question {n}"), texts={"good": "word " * 300})
            for n in range(count)
        ]
        run = make_run(tmp_path / str(count), rows, settings=["output.parquet=false"])
        export(run, "autoalign", tmp_path / "warm" / str(count))
        tracemalloc.start()
        done = export(run, "autoalign", tmp_path / "out" / str(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert done.exported == count
    size = (tmp_path / "out" / "1200" / "sso.json").stat().st_size
    assert size > 2e6
    assert peaks[1] - peaks[0] < 300_000


def test_the_next_command_is_quoted_for_a_shell(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's; $(mine)"
    done = export(run, "trl", out)
    assert shlex.split(done.next)[:4] == ["trl", "dpo", "--config", f"{out}/dpo.yaml"]
    assert lines_of(out / "train.jsonl")


@pytest.mark.parametrize("to", ["sso", "autoalign"])
def test_a_format_of_system_messages_refuses_another_placement_by_name(
    to: str, cli: Cli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", every_kind(), settings=["steering.placement=user"])
    done = cli("export", run, "--to", to, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert f"--to {to}: holds the principles as system messages only" in done.stderr
    assert "steering.placement=user" in done.stderr
    assert not (tmp_path / "out").exists()
    assert cli("export", run, "--to", "trl", "--out", tmp_path / "trl").exit_code == 0
