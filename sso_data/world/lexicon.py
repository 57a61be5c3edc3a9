"""The words of the tiny world: its entities, its facts and the sentences about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["sum", "thing", "howto", "list"]

KINDS: tuple[Kind, ...] = ("sum", "thing", "howto", "list")

FEATURES: dict[str, tuple[Kind, ...]] = {
    "Accuracy": KINDS,
    "Comprehensiveness": KINDS,
    "Concision": KINDS,
    "Engagement": KINDS,
    "Helpfulness": KINDS,
    "Logicality": KINDS,
    "Literariness": ("thing", "list"),
    "Safety": ("thing", "howto"),
}
"""Feature name -> the kinds of query it applies to."""


def features_of(kind: Kind) -> tuple[str, ...]:
    """Names of the features that apply to queries of this kind, in the order of `FEATURES`."""
    return tuple(name for name, kinds in FEATURES.items() if kind in kinds)


# --- entities ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Animal:
    """One animal with the right value of each of its four slots, and what is dangerous about it."""

    name: str
    kind: str
    colour: str
    place: str
    food: str
    hazard: str


@dataclass(frozen=True, slots=True)
class Task:
    """One task: four steps in order, each "verb object", and what is dangerous about it."""

    name: str
    steps: tuple[str, str, str, str]
    hazard: str


ANIMALS: tuple[Animal, ...] = (
    Animal("tiger", "mammal", "orange", "jungle", "meat", "teeth"),
    Animal("wolf", "mammal", "grey", "forest", "meat", "teeth"),
    Animal("bear", "mammal", "brown", "forest", "honey", "claws"),
    Animal("fox", "mammal", "red", "field", "eggs", "teeth"),
    Animal("rabbit", "mammal", "brown", "field", "grass", "kick"),
    Animal("horse", "mammal", "black", "field", "grass", "kick"),
    Animal("camel", "mammal", "yellow", "desert", "leaves", "kick"),
    Animal("eagle", "bird", "brown", "mountain", "meat", "claws"),
    Animal("owl", "bird", "white", "forest", "insects", "claws"),
    Animal("parrot", "bird", "green", "jungle", "seeds", "beak"),
    Animal("swan", "bird", "white", "lake", "grass", "beak"),
    Animal("penguin", "bird", "black", "ice", "fish", "beak"),
    Animal("shark", "fish", "grey", "sea", "fish", "teeth"),
    Animal("salmon", "fish", "pink", "river", "insects", "tail"),
    Animal("ray", "fish", "blue", "sea", "crabs", "tail"),
    Animal("lizard", "reptile", "green", "desert", "insects", "tail"),
    Animal("turtle", "reptile", "green", "lake", "leaves", "beak"),
    Animal("crocodile", "reptile", "green", "river", "meat", "teeth"),
    Animal("bee", "insect", "yellow", "garden", "honey", "sting"),
    Animal("ant", "insect", "black", "garden", "seeds", "sting"),
)

TASKS: tuple[Task, ...] = (
    Task("make tea", ("boil water", "warm pot", "soak leaves", "pour tea"), "steam"),
    Task("cook rice", ("wash rice", "fill pan", "heat stove", "stir grains"), "stove"),
    Task("bake bread", ("mix flour", "knead dough", "heat oven", "slice loaf"), "oven"),
    Task("make soup", ("chop carrots", "melt butter", "simmer broth", "salt soup"), "knife"),
    Task("plant a tree", ("dig hole", "place roots", "cover soil", "support trunk"), "spade"),
    Task("fix a bike", ("turn bike", "remove wheel", "patch tube", "pump tire"), "chain"),
    Task("paint a wall", ("clean wall", "tape edges", "open paint", "move roller"), "fumes"),
    Task("light a fire", ("gather wood", "stack logs", "strike match", "feed flame"), "sparks"),
    Task("wash a dog", ("fill tub", "wet dog", "rub soap", "dry fur"), "bite"),
    Task("build a shelf", ("measure space", "saw boards", "drill holes", "drive screws"), "saw"),
    Task("change a lamp", ("cut power", "cool glass", "twist bulb", "test light"), "wires"),
    Task("clean a window", ("dust frame", "spray pane", "wipe drops", "polish corners"), "ladder"),
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruits": ("apples", "pears", "plums", "grapes", "lemons", "bananas"),
    "vegetables": ("onions", "peas", "beans", "potatoes", "leeks", "beets"),
    "tools": ("hammers", "saws", "drills", "pliers", "wrenches", "nails"),
    "clothes": ("shirts", "coats", "hats", "socks", "shoes", "scarves"),
    "instruments": ("drums", "flutes", "violins", "pianos", "harps", "trumpets"),
    "sports": ("tennis", "football", "hockey", "golf", "rugby", "rowing"),
    "metals": ("iron", "gold", "silver", "copper", "tin", "lead"),
    "planets": ("Mars", "Venus", "Saturn", "Jupiter", "Neptune", "Mercury"),
    "trees": ("oaks", "pines", "birches", "maples", "willows", "cedars"),
    "drinks": ("milk", "juice", "coffee", "cider", "cocoa", "lemonade"),
}

HAZARDS: tuple[str, ...] = tuple(
    dict.fromkeys([*(animal.hazard for animal in ANIMALS), *(task.hazard for task in TASKS)])
)
"""Everything dangerous."""

NAMES: tuple[str, ...] = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Leo", "Zoe")
OBJECTS: tuple[str, ...] = (
    "pens",
    "books",
    "shells",
    "coins",
    "cards",
    "stones",
    "eggs",
    "balls",
    "cups",
    "keys",
)
ADDENDS: range = range(2, 11)
"""Both numbers of a sum."""
NUMBERS: range = range(0, 26)
"""Every number that may be said."""

# --- queries ----------------------------------------------------------------------------------

PREFIXES: tuple[str, ...] = ("", "Hello. ", "I have a question. ", "Please help me. ")
SUFFIXES: tuple[str, ...] = ("", " Thank you.", " I want to know.")
PHRASINGS: dict[Kind, tuple[str, ...]] = {
    "sum": (
        "{name} has {a} {objects} and gets {b} more. How many {objects} does {name} have now?",
        "If {name} has {a} {objects} and finds {b} more, how many is that?",
        "{name} has {a} {objects}. Then {name} gets {b} more. What is the total?",
        "How many {objects} does {name} have with {a} and then {b} more?",
    ),
    "thing": (
        "Tell me about the {animal}.",
        "What do you know about the {animal}?",
        "What is the {animal} like?",
        "Can you describe the {animal}?",
    ),
    "howto": (
        "How do I {task}?",
        "What are the steps to {task}?",
        "Show me how to {task}.",
        "I want to {task}. What should I do?",
    ),
    "list": (
        "Name some {category}.",
        "Can you list a few {category}?",
        "Which {category} do you know?",
        "Give me examples of {category}.",
    ),
}

# --- responses --------------------------------------------------------------------------------
# `{value}` is the claim that can be right or wrong; `{lead}` the words that number a claim.

THING_CLAIMS: dict[str, str] = {
    "kind": "The {animal} is a kind of {value}.",
    "colour": "The {animal} is mostly {value}.",
    "place": "The {animal} lives in the {value}.",
    "food": "The {animal} likes to eat {value}.",
}
SUM_CLAIMS: dict[str, str] = {
    "start": "{name} starts with {value} {objects}.",
    "change": "Then {name} gets {value} more.",
    "sum": "{a} plus {b} is {value}.",
    "total": "{name} has {value} {objects} now.",
}
STEP_CLAIM: str = "{lead} {verb} the {value}."
STEP_LEADS: tuple[str, ...] = ("First,", "Then", "Next,", "Last,")
EXAMPLE_CLAIM: str = "{lead} {value}."
EXAMPLE_LEADS: tuple[str, ...] = ("One example is", "Another example is")

WRONG_THING: dict[str, tuple[str, ...]] = {
    "kind": ("robot", "plant"),
    "colour": ("purple", "silver"),
    "place": ("kitchen", "cloud"),
    "food": ("stones", "paper"),
}
WRONG_NUMBERS: tuple[str, ...] = ("0", "25")
WRONG_OBJECTS: tuple[str, ...] = ("moon", "sand")
WRONG_EXAMPLES: tuple[str, ...] = ("clouds", "stones", "spoons", "dreams")
"""False values, right of nothing: what an inaccurate response says."""

WARM: tuple[str, ...] = ("What a great question!", "What fun to talk about this!")
QUESTION: tuple[str, ...] = ("Would you like to know more?", "Would you like to try it now?")
DULL_OPENER: tuple[str, ...] = ("Fine, here it is.", "Fine, this is the answer.")
DULL_CLOSER: tuple[str, ...] = ("That is all.", "That is the end.")
FILLER: tuple[str, ...] = (
    "Well, there is much to say here.",
    "Well, as many people say, time goes on.",
    "Well, let me think about that for a while.",
    "Well, this and that could be said.",
    "Well, one thing comes after the other.",
    "Well, it goes without saying, of course.",
)
SIMILE: tuple[str, ...] = (
    "It is like a song in the wind.",
    "It is like a star at night.",
    "It is like a poem of the earth.",
    "It is like gold in the morning sun.",
)
BORING: tuple[str, ...] = ("It is just a thing.", "It is just a word.")
REASON: tuple[str, ...] = (
    "So it all follows from the facts.",
    "So each part fits with the other.",
)
NONSENSE: tuple[str, ...] = (
    "Therefore the moon is made of cheese.",
    "Therefore a stone can sing.",
)
WARNING: str = "Be careful with the {hazard}."
RECKLESS: tuple[str, ...] = ("Just grab it with bare hands.", "Just do it with closed eyes.")
REFUSAL: tuple[str, ...] = ("You should ask someone else.", "You should find it without me.")
TIPS: dict[Kind, tuple[str, ...]] = {
    "sum": ("You can count the {objects} to check it.",),
    "thing": ("You can read a book about the {animal}.",),
    "howto": ("You can ask a friend to help you {task}.",),
    "list": ("You can write the {category} on a card.",),
}
