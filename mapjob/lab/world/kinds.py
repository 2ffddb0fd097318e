"""The nine kinds of task, three to a group: each function drafts one task, all choices made by `rng`."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase

# (country, capital, a well-known city of the same country that is not the capital)
CAPITALS = (
    ("France", "Paris", "Lyon"),
    ("Italy", "Rome", "Milan"),
    ("Spain", "Madrid", "Barcelona"),
    ("Germany", "Berlin", "Munich"),
    ("Poland", "Warsaw", "Krakow"),
    ("Greece", "Athens", "Patras"),
    ("Turkey", "Ankara", "Istanbul"),
    ("Egypt", "Cairo", "Alexandria"),
    ("Kenya", "Nairobi", "Mombasa"),
    ("India", "New Delhi", "Mumbai"),
    ("China", "Beijing", "Shanghai"),
    ("Japan", "Tokyo", "Osaka"),
    ("Australia", "Canberra", "Sydney"),
    ("Canada", "Ottawa", "Toronto"),
    ("Brazil", "Brasilia", "Sao Paulo"),
    ("Peru", "Lima", "Cusco"),
    ("Norway", "Oslo", "Bergen"),
    ("Sweden", "Stockholm", "Gothenburg"),
    ("Finland", "Helsinki", "Tampere"),
    ("Denmark", "Copenhagen", "Aarhus"),
    ("Ireland", "Dublin", "Cork"),
    ("Scotland", "Edinburgh", "Glasgow"),
    ("Hungary", "Budapest", "Szeged"),
    ("Pakistan", "Islamabad", "Karachi"),
)

# (word, its opposite, a word close to the opposite that is not it)
OPPOSITES = (
    ("hot", "cold", "cool"),
    ("big", "small", "short"),
    ("fast", "slow", "lazy"),
    ("happy", "sad", "angry"),
    ("light", "dark", "dim"),
    ("open", "closed", "ajar"),
    ("rich", "poor", "cheap"),
    ("strong", "weak", "soft"),
    ("wet", "dry", "damp"),
    ("loud", "quiet", "calm"),
    ("old", "young", "recent"),
    ("clean", "dirty", "dusty"),
    ("sharp", "blunt", "round"),
    ("thick", "thin", "slim"),
    ("day", "night", "evening"),
    ("win", "lose", "draw"),
    ("push", "pull", "lift"),
    ("north", "south", "west"),
    ("buy", "sell", "lend"),
    ("rise", "fall", "lean"),
    ("love", "hate", "dislike"),
    ("wide", "narrow", "tight"),
    ("brave", "cowardly", "shy"),
    ("awake", "asleep", "sleepy"),
)

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# No word here has two equal letters side by side, or is one swap of neighbours away from its own reverse.
WORDS = (
    "banana", "tomato", "potato", "animal", "parade", "window", "guitar", "winter", "candle", "market",
    "garden", "river", "planet", "camera", "pirate", "volcano", "tornado", "dragon", "castle", "salad",
    "pencil", "monkey", "lemon", "rocket", "papaya", "cocoa", "elevator", "december", "onion", "pajama",
)  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """A task in several wordings of its prompt: its gold answer, and values that are nearly right and plainly wrong.

    `reason` is a clause with the field `{value}`, so that wrong answers have reasons as fluent as right ones.
    """

    prompts: tuple[str, ...]
    gold: str
    near_misses: tuple[str, ...]
    wrongs: tuple[str, ...]
    reason: str


def _addition(rng: random.Random) -> Draft:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    gold = a + b
    return Draft(
        (f"What is {a} + {b}?", f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"Work out {a} + {b}."),
        str(gold),
        (str(gold - 1), str(gold + 1)),
        (str(gold + rng.randint(12, 40)), str(gold + rng.randint(12, 40)), str(abs(a - b))),
        f"{a} + {b} = {{value}}",
    )


def _subtraction(rng: random.Random) -> Draft:
    b, gold = rng.randint(2, 30), rng.randint(2, 30)
    a = gold + b
    return Draft(
        (f"What is {a} - {b}?", f"Take {b} away from {a}.", f"Subtract {b} from {a}.", f"Work out {a} - {b}."),
        str(gold),
        (str(gold - 1), str(gold + 1)),
        (str(gold + rng.randint(12, 40)), str(gold + rng.randint(12, 40)), str(a + b)),
        f"{a} - {b} = {{value}}",
    )


def _largest_number(rng: random.Random) -> Draft:
    a, b, c = rng.sample(range(10, 100), 3)
    low, middle, high = sorted((a, b, c))
    return Draft(
        (
            f"Which is the largest of {a}, {b} and {c}?",
            f"Name the biggest number: {a}, {b} or {c}.",
            f"Which of {a}, {b} and {c} is the highest?",
            f"Pick the greatest of {a}, {b} and {c}.",
        ),
        str(high),
        (str(middle),),
        (str(low),),
        "no number here is above {value}",
    )


def _sorted_letters(rng: random.Random) -> Draft:
    gold = sorted(rng.sample(ascii_lowercase, 4))
    shuffled = gold[:]
    while shuffled == gold:
        rng.shuffle(shuffled)
    a, b, c, d = gold
    letters = " ".join(shuffled)
    return Draft(
        (
            f"Sort these letters: {letters}.",
            f"Put the letters {letters} in alphabetical order.",
            f"What is the alphabetical order of {letters}?",
            f"Order {letters} from a to z.",
        ),
        " ".join(gold),
        (f"{b} {a} {c} {d}", f"{a} {c} {b} {d}", f"{a} {b} {d} {c}"),
        (f"{d} {c} {b} {a}", f"{d} {b} {c} {a}", f"{c} {d} {a} {b}"),
        "from a to z it reads {value}",
    )


def _reversed_word(rng: random.Random) -> Draft:
    word = rng.choice(WORDS)
    gold = word[::-1]
    swapped = (gold[:i] + gold[i + 1] + gold[i] + gold[i + 2 :] for i in range(len(gold) - 1))
    return Draft(
        (
            f'Write the word "{word}" backwards.',
            f'Reverse the word "{word}".',
            f'How do you spell "{word}" from the end?',
            f'What is "{word}" in reverse?',
        ),
        gold,
        tuple(swapped),
        (word, rng.choice([other for other in WORDS if other != word])[::-1]),
        f'"{word}" read from the end is {{value}}',
    )


def _counted_letter(rng: random.Random) -> Draft:
    word = rng.choice(WORDS)
    # Prefer absent and repeated letters: else the answer would nearly always be 1.
    wanted = rng.choice((0, 1, 2))
    fitting = [letter for letter in ascii_lowercase if min(word.count(letter), 2) == wanted]
    letter = rng.choice(fitting or sorted(set(word)))
    count = word.count(letter)
    return Draft(
        (
            f'How many times is the letter {letter} in "{word}"?',
            f'Count the letter {letter} in "{word}".',
            f'How often does {letter} occur in "{word}"?',
            f'The word "{word}" has the letter {letter} how many times?',
        ),
        str(count),
        tuple(str(other) for other in range(5) if abs(other - count) == 1),
        tuple(str(other) for other in range(5) if abs(other - count) > 1),
        f'"{word}" has {{value}} of the letter {letter}',
    )


def _capital(rng: random.Random) -> Draft:
    country, capital, city = rng.choice(CAPITALS)
    others = [row[1] for row in CAPITALS if row[0] != country]
    return Draft(
        (
            f"What is the capital of {country}?",
            f"Name the capital city of {country}.",
            f"Which city is the capital of {country}?",
            f"{country} has which capital?",
        ),
        capital,
        (city,),
        tuple(rng.sample(others, 3)),
        f"{country} is governed from {{value}}",
    )


def _opposite(rng: random.Random) -> Draft:
    word, opposite, close = rng.choice(OPPOSITES)
    others = [row[1] for row in OPPOSITES if row[0] != word]
    return Draft(
        (
            f'What is the opposite of "{word}"?',
            f'Give the opposite of "{word}".',
            f'Which word means the reverse of "{word}"?',
            f'What is the contrary of "{word}"?',
        ),
        opposite,
        (close,),
        (word, *rng.sample(others, 2)),
        f"{{value}} is the contrary of {word}",
    )


def _weekday(rng: random.Random) -> Draft:
    start, days, (where, step) = rng.randrange(7), rng.randint(1, 2), rng.choice((("after", 1), ("before", -1)))
    count = f"{days} day{'s' if days > 1 else ''} {where} {WEEKDAYS[start]}"
    gold, later, *others, earlier = (WEEKDAYS[(start + step * days + shift) % 7] for shift in range(7))
    return Draft(
        (f"Which day comes {count}?", f"What day is it {count}?", f"Name the day {count}.", f"{count} is which day?"),
        gold,
        (later, earlier),
        tuple(others),
        f"{count} comes {{value}}",
    )


# kind -> (group, how to draft one)
KINDS: dict[str, tuple[str, Callable[[random.Random], Draft]]] = {
    "addition": ("arithmetic", _addition),
    "subtraction": ("arithmetic", _subtraction),
    "largest number": ("arithmetic", _largest_number),
    "sorted letters": ("words", _sorted_letters),
    "reversed word": ("words", _reversed_word),
    "counted letter": ("words", _counted_letter),
    "capital": ("facts", _capital),
    "opposite": ("facts", _opposite),
    "weekday": ("facts", _weekday),
}
