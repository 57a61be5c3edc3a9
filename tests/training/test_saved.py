"""What is left of a training, by values that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sso_data.core.statistics import mean_of
from sso_data.training.callbacks import movable_share
from sso_data.training.encode import EncodedRow
from sso_data.training.saved import (
    COMPARED_ROWS,
    _lost,
    changed_shares,
    fixed_rows,
    summary,
    unchanged,
    warnings,
)

BF16 = torch.bfloat16
START = torch.tensor([[1.0, 1.0], [2.0, -4.0]], dtype=BF16)
STEP = 2.0**-7
"""The step of bfloat16 from 1 to 2; from 2 to 4 it is twice that."""


def saved(folder: Path, name: str, **tensors: torch.Tensor) -> Path:
    (folder / name).mkdir()
    save_file(tensors, folder / name / "model.safetensors")
    return folder / name


def shares(folder: Path, moved: torch.Tensor, dtype: torch.dtype) -> tuple[object, ...]:
    """Of the matrix START moved by `moved` in float32, and saved."""
    start = saved(folder, f"start{len(list(folder.iterdir()))}", w=START)
    after = (START.float() + moved).to(dtype)
    return changed_shares(start, saved(folder, f"{start.name}-after", w=after))


def test_a_weight_counts_when_it_moved_by_more_than_half_a_step(tmp_path: Path) -> None:
    """Of four weights one moves by a whole step, one by less than half of one, two not at all."""
    moved = torch.tensor([[STEP, 0.4 * STEP], [0.0, 0.0]])
    assert shares(tmp_path, moved, BF16) == (BF16, 0.25, 0.25)
    assert shares(tmp_path, moved, torch.float32) == (torch.float32, 0.5, 0.25)


def test_small_moves_are_all_undone_by_saving(tmp_path: Path) -> None:
    moved = torch.full((2, 2), 0.1 * STEP)
    assert shares(tmp_path, moved, BF16) == (BF16, 0.0, 0.0)
    assert shares(tmp_path, moved, torch.float32) == (torch.float32, 1.0, 0.0)


def test_rounding_the_start_is_no_change(tmp_path: Path) -> None:
    """A float32 start saved in bfloat16 is compared with what it would be in bfloat16."""
    start = saved(tmp_path, "start", w=torch.tensor([1.001, 2.0, 3.001, 4.0]))
    after = saved(tmp_path, "after", w=torch.tensor([1.0, 2.0, 3.0, 4.03125], dtype=BF16))
    assert changed_shares(start, after) == (BF16, 0.25, 0.25)


def test_an_adapter_counts_what_began_at_zero(tmp_path: Path) -> None:
    start = saved(tmp_path, "start", w=START)
    after = saved(
        tmp_path,
        "after",
        **{
            "base.q.lora_A.weight": torch.ones(4, 2, dtype=BF16),
            "base.q.lora_B.weight": torch.tensor([[0.0, 1e-6], [0.0, 0.0]], dtype=BF16),
        },
    )
    assert changed_shares(start, after) == (BF16, 0.25, 0.25)


def test_names_that_the_start_has_not_are_left_out(tmp_path: Path) -> None:
    start, after = saved(tmp_path, "start", w=START), saved(tmp_path, "after", head=START)
    assert changed_shares(start, after) == (torch.float32, None, None)


def test_the_rows_do_not_depend_on_the_order() -> None:
    rows = [
        EncodedRow(id=f"{n:03}", prompts={}, completions={}, ref_CS=np.zeros((3, 2)))
        for n in range(100)
    ]
    found = [row.id for row in fixed_rows(rows)]
    assert len(set(found)) == COMPARED_ROWS
    assert found == [row.id for row in fixed_rows(rows[::-1])]
    assert len(fixed_rows(rows[:5])) == 5


def test_what_is_lost_is_a_share_of_d_in_memory() -> None:
    memory = np.array([1.0, 2.0, 3.0, 2.0])
    assert _lost(memory, memory / 4) == 0.75
    assert _lost(memory, memory) == 0.0
    assert _lost(memory, memory + np.array([1.0, -1.0, 1.0, -1.0])) == 0.0, "no difference shown"
    assert _lost(None, memory) is None


FOUND = {
    **{"rows": 64, "of": "D of y+ over y- (nats)", "saved_dtype": "bfloat16"},
    **{"changed_saved": 0.032, "changed_loaded": 0.032},
    **{"memory": [6.6, 6.0, 7.2], "saved": [1.1, 1.0, 1.2], "loaded": [1.1, 1.0, 1.2]},
    **{"lost_saved": 0.83, "lost_loaded": 0.83},
}


def test_words() -> None:
    text = summary(FOUND)
    assert text == (
        "D of y+ over y- (nats) on 64 training rows, mean and 95 % interval: in memory +6.6 "
        "[+6, +7.2]; in the saved bfloat16 files +1.1 [+1, +1.2]; 3.20% of the saved weights "
        "changed"
    )
    text = summary(FOUND | {"saved_dtype": "float32", "memory": None, "error": "no memory"})
    assert "in memory" not in text and text.endswith(
        "; loaded in bfloat16 +1.1 [+1, +1.2]; 3.20% of the saved weights changed, 3.20% in "
        "bfloat16; D of the files was not measured"
    )
    single = dict.fromkeys(("memory", "saved", "loaded"), None) | {"rows": 1}
    assert summary(FOUND | single) == (
        "D of y+ over y- (nats) is measured from two training rows on: 3.20% of the saved weights "
        "changed"
    )
    (line,) = warnings(FOUND, merged=False)
    assert "undid 83%" in line and "optim.save_dtype=float32" in line and "lora" not in line
    assert "lora.merge=false" in warnings(FOUND, merged=True)[0]
    (line,) = warnings(FOUND | {"lost_saved": 0.0}, merged=False)
    assert "engine.dtype=float32" in line
    assert not warnings(FOUND | {"lost_saved": 0.1, "lost_loaded": 0.1}, merged=False)
    assert unchanged(FOUND) is None and unchanged(None) is None
    nothing = unchanged(FOUND | {"changed_saved": 0.0})
    assert nothing and "optim.save_dtype=float32" in nothing


def test_a_mean_and_its_interval() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(0.5), Student's quantile of 4 degrees 2.776."""
    found = mean_of([1, 2, 3, 4, 5])
    assert found and found.value == 3.0 and found.is_shown
    assert found.high - 3 == pytest.approx(2.776 * 0.5**0.5, rel=0.003)
    assert mean_of([1.0, float("nan")]) is None


def test_weights_that_can_move_a_step() -> None:
    """Half a step above 1 is 2^-8, below 1 and above 0.5 it is 2^-9; above 4 it is 2^-6."""
    weights = [torch.tensor([1.0, 4.0]), torch.tensor([0.75, 64.0])]
    assert movable_share(weights, 2.0**-10) == 0.0
    assert movable_share(weights, 1.1 * 2.0**-9) == 0.5, "1 may fall below 1, 0.75 go either way"
    assert movable_share(weights, 1.1 * 2.0**-7) == 0.75
