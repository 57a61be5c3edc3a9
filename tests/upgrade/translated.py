"""A command of the version that began the work, in the words of today's.

Whoever renames an option, a key or a value says so here; a stored command is never rewritten. Keys
are those of the section that they belong to: `optim.warmup` is found in `train.optim.warmup` of an
iteration, too.
"""

from collections.abc import Iterator, Mapping, Sequence

OPTIONS: Mapping[str, str] = {"--base": "--loss-type"}
"""`--old` to `--new`."""

KEYS: Mapping[str, str] = {
    "engine.process": "engine.isolation",
    "loss.base": "loss.type",
    "optim.compute": "optim.compute_dtype",
    "optim.weights": "optim.param_dtype",
    "optim.batch_rows": "optim.batch_size",
    "optim.warmup": "optim.warmup_steps",
    "reward.centre": "reward.center_rewards_coefficient",
}
"""`section.old` to `section.new`."""

VALUES: Mapping[tuple[str, str], str] = {("engine.process", "child"): "subprocess"}
"""(`section.old`, old value) to the new value."""


def translated(words: Sequence[str]) -> list[str]:
    """The command in today's words. Changed defaults need none: a directory keeps its own."""
    return list(_words(words))


def _words(words: Sequence[str]) -> Iterator[str]:
    before = ""
    for word in words:
        yield _setting(word) if before == "--set" else OPTIONS.get(word, word)
        before = word


def _setting(word: str) -> str:
    """`key=value` with both translated, below whatever section the key stands."""
    name, _, value = word.partition("=")
    for start in _starts(name):
        section, key = name[:start], name[start:]
        if key in KEYS or (key, value) in VALUES:
            return f"{section}{KEYS.get(key, key)}={VALUES.get((key, value), value)}"
    return word


def _starts(name: str) -> Iterator[int]:
    """Where the parts of a dotted name begin."""
    yield 0
    yield from (place + 1 for place, letter in enumerate(name) if letter == ".")
