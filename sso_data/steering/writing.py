"""`principles write`: what a model would choose and write for the queries of a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sso_data.config.run import RunConfig
from sso_data.core.errors import ConfigError
from sso_data.core.jinja import Templates
from sso_data.core.naming import public_name
from sso_data.core.records import JsonRow, Prompt
from sso_data.prompts import count_prompts, read_prompts
from sso_data.runs.steering import Occurrences
from sso_data.steering.answer_store import MemoryBook, SteeringCounts
from sso_data.steering.by_model import Task
from sso_data.steering.catalogue_models import asked_model, control_test
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rounds import Round
from sso_data.steering.rules import Rules, check_features
from sso_data.steering.stage import prompts_of


@dataclass(slots=True)
class _InOrder:
    """Lines given out in the order of their prompts, whatever order they are finished in."""

    order: list[str] = field(default_factory=list)
    waiting: dict[str, JsonRow] = field(default_factory=dict)
    given: int = 0

    def ready(self) -> Iterator[JsonRow]:
        """The lines that may be given out now."""
        while self.given < len(self.order) and self.order[self.given] in self.waiting:
            yield self.waiting.pop(self.order[self.given])
            self.given += 1


def write_principles(
    source: str, config: RunConfig, tell: Callable[[str], None], tally: SteeringCounts
) -> Iterator[JsonRow]:
    """The line of each query, with its `prompt`, in the order of the source; nothing is kept.

    The steering is that of `config` with principles that are written. `tally` counts the lines.
    Raises SsoDataError.
    """
    if config.steering.choose == "policy" and config.steering.endpoint:
        raise ConfigError(
            "steering.choose=policy: an endpoint writes but does not choose; take --model here, or "
            "steering.choose=random"
        )
    catalogue = load_catalogue(config.principles)
    check_features(config.steering, catalogue)
    templates = Templates(directory=config.templates)
    templates.check()
    rules = Rules(
        config=config.steering, catalogue=catalogue, seed=config.seed, templates=templates
    )
    count_prompts(source, config.source)
    order = _InOrder()
    prompts = {}

    def todo() -> Iterator[Prompt]:
        candidates = read_prompts(source, config.source)
        for prompt in prompts_of(candidates, Occurrences().next, lambda identity: True):
            order.order.append(prompt.id)
            prompts[prompt.id] = [message.to_json() for message in prompt.messages]
            yield prompt

    def on_line(line: JsonRow) -> None:
        tally.add(line)
        order.waiting[line["id"]] = {"prompt": prompts.pop(line["id"]), **line}

    with asked_model(config, tell) as model:
        task = Task(
            rules=rules,
            choose=config.steering.choose == "policy",
            write=True,
            writer=public_name(str(config.steering.principle_model or config.model)),
            is_control=control_test(model),
        )
        for _ in Round(task, lambda: model, MemoryBook(), on_line=on_line).run(todo()):
            yield from order.ready()
        yield from order.ready()
