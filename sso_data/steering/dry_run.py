"""`principles write`: what a model would choose and write for the queries of a file."""

from collections.abc import Iterator

from sso_data.chat.engine import EngineCompletions
from sso_data.config.run import RunConfig
from sso_data.core.errors import ConfigError
from sso_data.core.paths import public_name
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import JsonRow, Prompt
from sso_data.prompts import count_prompts, read_prompts
from sso_data.runs.ledger import Ledger
from sso_data.runs.steering import MemorySteeringStore
from sso_data.steering.by_model import PassTask
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.models import open_writer
from sso_data.steering.passes import PROMPTS_STEERED, Pass, prompts_of
from sso_data.steering.rules import load_rules


def write_principles(
    source: str, config: RunConfig, counts: SteeringCounts, progress: Progress | None = None
) -> Iterator[JsonRow]:
    """Yield the line of each query, with its `prompt`, in the order of the source; keep nothing.

    The steering is that of `config` with principles that are written. `counts` grows with the
    lines. Raises SsoDataError.
    """
    progress = progress or NullProgress()
    if config.steering.choose == "policy" and config.steering.endpoint:
        raise ConfigError(
            "steering.choose=policy: an endpoint cannot choose features; use a local --model, or "
            "steering.choose=random"
        )
    rules = load_rules(config)
    total = count_prompts(source, config.source)
    begun: dict[str, JsonRow] = {}  # by id in the order of the source; a finished one has a kind

    def todo() -> Iterator[Prompt]:
        candidates = read_prompts(source, config.source)
        for prompt in prompts_of(candidates, Ledger().next_ids, lambda identity: True):
            begun[prompt.id] = {"prompt": [message.to_json() for message in prompt.messages]}
            yield prompt

    def on_line(line: JsonRow) -> None:
        counts.add(line)
        begun[line["id"]] |= line
        progress.count(counts.prompts, total, PROMPTS_STEERED, counts.state)

    def finished() -> Iterator[JsonRow]:
        while begun and "kind" in begun[first := next(iter(begun))]:
            yield begun.pop(first)

    progress.phase(f"opening {config.steering.principle_model or config.model}")
    with open_writer(config, progress) as model:
        progress.phase("writing principles")
        progress.count(0, total, PROMPTS_STEERED)
        task = PassTask(
            rules=rules,
            choose=rules.choose == "policy",
            write=True,
            writer=public_name(str(config.steering.principle_model or config.model)),
            is_control=(
                model.holds_control if isinstance(model, EngineCompletions) else lambda text: False
            ),
        )
        for _ in Pass(task, lambda: model, MemorySteeringStore(), on_line=on_line).run(todo()):
            yield from finished()
        yield from finished()
