"""Prompts for benchmarks, made of parts: distinct, of different lengths, about everyday matters."""

from itertools import product

OPENINGS = (
    "",
    "I am new to this. ",
    "Please keep in mind that I have little money. ",
    "My sister and I disagree about this, and we would like a third opinion before the weekend. ",
)
REQUESTS = (
    "Explain {topic} to a twelve-year-old.",
    "Write a short plan for {topic}.",
    "What are the three most common mistakes with {topic}, and how can I avoid each of them?",
    "Compare two ways to approach {topic}, with one advantage and one drawback of each.",
    "Write a friendly e-mail that asks a colleague for help with {topic}.",
    "Tell a story of two paragraphs in which {topic} goes wrong at first.",
    "List the things that I need before I start with {topic}. I have one afternoon.",
    "Is it worth spending money on {topic}? Say what you would ask before you decide.",
)
TOPICS = (
    "baking bread with a sourdough starter",
    "learning to read sheet music",
    "moving an old website to a new server",
    "growing tomatoes on a balcony",
    "preparing for a first job interview",
    "backing up family photographs",
    "training for a ten-kilometre run",
    "repairing a bicycle chain",
    "saving for a journey by train",
    "sorting a large list of addresses",
    "keeping bees in a town",
    "teaching a dog to walk on a lead",
)
ASKED = (
    "What is {thing}?",
    "What is {thing} used for?",
    "How does {thing} work?",
    "Who needs {thing}?",
    "What is {thing} made of?",
    "How do I choose {thing}?",
)
THINGS = """
a thermometer, a compass, a lighthouse, a telescope, a bicycle, a candle, a kite, a clock, an
umbrella, a bridge, a calendar, a camera, a dictionary, a greenhouse, a hammer, a ladder, a
lock, a magnet, a map, a microscope, a mirror, a needle, an oven, a pencil, a piano, a pump, a
sail, a saw, a scale, a spoon, a stove, a tent, a torch, a tractor, a violin, a wheel, a
whistle, a windmill, a zip, a dam, a drum, a kettle, a rope
"""


def everyday(count: int) -> list[str]:
    """The first `count` prompts; neighbours differ in topic, request and length."""
    topics = product(OPENINGS, REQUESTS, TOPICS)
    return _walk([start + request.format(topic=topic) for start, request, topic in topics], count)


def questions(count: int) -> list[str]:
    """The first `count` short questions: a small model's answers mostly end by themselves."""
    things = [" ".join(thing.split()) for thing in THINGS.split(",")]
    return _walk([ask.format(thing=thing) for ask, thing in product(ASKED, things)], count)


def _walk(made: list[str], count: int) -> list[str]:
    """The first `count` of a walk through all prompts."""
    if count > len(made):
        raise SystemExit(f"there are {len(made)} prompts of this kind, not {count}")
    step = 37  # coprime to their numbers
    return [made[index * step % len(made)] for index in range(count)]
