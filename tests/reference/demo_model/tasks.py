"""The problems of the demonstration model: questions, the working the model is taught, and answers.

A problem is a dict {"task", "kind", "prompt", "answer", "turns"}. turns: (question, working, answer)
triples, one for most; what the model learns to write is working + "</think>" + answer. prompt and
answer are those of the only turn, as a suite has them. Everything is drawn from a random.Random, so a
seed fixes it.

Held out by construction: every problem has keys (the operand pair of a sum; the operands of an
expression; the items of a list; each key-value pair of a recall context), and a hash of the key
decides on which side it may appear. is_test(key) is the rule; a training problem has no test key, a
test problem has only test keys.
"""

import hashlib

ANIMALS = "fox owl bee cat dog hen pig cow ant bat elk ram rat emu cod eel".split()
FOODS = "fig plum pear lime kiwi date pea nut oat rice corn bean leek kale beet yam".split()
TOOLS = "axe saw pen nail bolt drum lamp rope hook vase sofa bowl fork bell cup jar".split()
NOUNS = ANIMALS + FOODS + TOOLS
CATEGORIES = {"animal": ANIMALS, "food": FOODS, "tool": TOOLS}
ADJECTIVES = ("red blue pink gold grey old new big tiny cold warm soft dry wet fast slow calm loud "
              "dark tall").split()
PLACES = "barn shed loft hall yard park lake cave tent dock mill farm gate inn well roof".split()

# Distractors: a subject, what it did, and when.
SUBJECTS = ["The wind", "A train", "My friend", "The rain", "A child", "The sun", "A boat", "The king"]
VERBS = ["came back", "went away", "was late", "fell down", "made a noise", "was seen", "stood still",
         "turned left"]
TIMES = ["at noon", "that day", "in May", "again", "before six", "all night", "with no one", "then"]

TEST_SHARE = 16  # one key in so many is a test key


def is_test(key):
    """Whether a key (any value with a fixed repr) belongs to the held-out side."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % TEST_SHARE == 0


def draw(rng, test, make):
    """make(rng) -> (key, value), repeated until the key is on the wanted side; gives both."""
    while True:
        key, value = make(rng)
        if is_test(key) == test:
            return key, value


def one_turn(task, kind, question, working, answer, keys):
    return {"task": task, "kind": kind, "prompt": question, "answer": answer.strip(), "keys": keys,
            "turns": [(question, working, answer)]}


# ---- arithmetic ------------------------------------------------------------------------------------


def number(rng, digits):
    """Uniform among numbers of so many digits; one digit includes 0."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10 ** digits)


def columns(a, b, sign, width):
    """Working of a + b or a - b (a >= b): both padded to width, then column by column from the right
    digit, digit, carry = carry and digit; then the result with its leading zeros."""
    lines, carry, result = [f"{a:0{width}}{sign}{b:0{width}}"], 0, ""
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}")):
        if sign == "+":
            after, digit = divmod(int(x) + int(y) + carry, 10)
        else:
            digit = (int(x) - int(y) - carry) % 10
            after = int(int(x) - int(y) - carry < 0)
        lines.append(f"{x}{sign}{y}{sign}{carry}={after}{digit}")
        carry, result = after, str(digit) + result
    return "\n".join([*lines, str(carry) + result]) + "\n"


def ask(rng, expression):
    return rng.choice(["What is {}?", "Compute {}.", "{} ="]).format(expression)


def sum_problem(rng, test, sign, width=None):
    def make(r):
        a, b = (number(r, width or r.randint(1, 6)) for _ in "ab")
        if sign == "-" and a < b:
            a, b = b, a
        return (sign, a, b), (a, b)

    key, (a, b) = draw(rng, test, make)
    working = columns(a, b, sign, max(len(str(a)), len(str(b))))
    answer = a + b if sign == "+" else a - b
    return one_turn("arithmetic", "add" if sign == "+" else "sub", ask(rng, f"{a} {sign} {b}"), working,
                    str(answer), [key])


def product_working(a, b):
    """Three digits by two: each digit product with its carry, then the two partial products added."""
    lines, partial = [f"{a:03}*{b:02}"], []
    for y in reversed(f"{b:02}"):
        carry, row = 0, ""
        for x in reversed(f"{a:03}"):
            after, digit = divmod(int(x) * int(y) + carry, 10)
            lines.append(f"{x}*{y}+{carry}={after}{digit}")
            carry, row = after, str(digit) + row
        partial.append(int(str(carry) + row))
    return "\n".join(lines) + "\n" + columns(partial[0], 10 * partial[1], "+", 5)


def product_problem(rng, test):
    def make(r):
        a, b = number(r, r.choice([1, 2, 3, 3])), number(r, r.choice([1, 2, 2]))
        return ("*", a, b), (a, b)

    key, (a, b) = draw(rng, test, make)
    return one_turn("arithmetic", "mul", ask(rng, f"{a} * {b}"), product_working(a, b), str(a * b), [key])


# Each form: the expression, and its operations in order; numerals stand for results so far.
FORMS = [
    ("({a} + {b}) * {m}", [("a", "+", "b"), (0, "*", "m")]),
    ("({a} - {b}) * {m}", [("a", "-", "b"), (0, "*", "m")]),
    ("{m} * ({a} + {b})", [("a", "+", "b"), ("m", "*", 0)]),
    ("{m} * ({a} - {b})", [("a", "-", "b"), ("m", "*", 0)]),
    ("{a} + {b} * {m}", [("b", "*", "m"), ("a", "+", 0)]),
    ("{a} * {m} - {b}", [("a", "*", "m"), (0, "-", "b")]),
    ("{a} - ({b} - {c})", [("b", "-", "c"), ("a", "-", 0)]),
    ("({a} + {b}) * {m} - {c}", [("a", "+", "b"), (0, "*", "m"), (1, "-", "c")]),
    ("({a} - {b}) * {m} + {c}", [("a", "-", "b"), (0, "*", "m"), (1, "+", "c")]),
    ("{m} * ({a} + {b} - {c})", [("a", "+", "b"), (0, "-", "c"), ("m", "*", 1)]),
    ("({a} + {b}) - ({c} + {m})", [("a", "+", "b"), ("c", "+", "m"), (0, "-", 1)]),
]


def parts(x, sign, y):
    """Tens and ones apart, as 30-4= of 62-36 or 90+54= of 9*16; nothing for two digits."""
    if x < 10 and y < 10:
        return ""
    if sign == "*":
        x, y = max(x, y), min(x, y)
        return f"{x // 10 * y}0+{x % 10 * y}="
    ones = x % 10 + y % 10 if sign == "+" else x % 10 - y % 10
    tens = x // 10 + y // 10 if sign == "+" else x // 10 - y // 10
    return f"{tens}0{'-' if ones < 0 else '+'}{abs(ones)}="


def expression_problem(rng, test):
    def make(r):
        while True:
            form, operations = r.choice(FORMS)
            values = {"a": r.randint(1, 40), "b": r.randint(1, 20), "c": r.randint(1, 20), "m": r.randint(2, 9)}
            results, lines = [], []
            for left, sign, right in operations:
                x = results[left] if isinstance(left, int) else values[left]
                y = results[right] if isinstance(right, int) else values[right]
                results.append({"+": x + y, "-": x - y, "*": x * y}[sign])
                lines.append(f"{x}{sign}{y}={parts(x, sign, y)}{results[-1]}\n")
            if min(results) >= 0 and max(results) <= 300:
                break
        text = form.format(**values)
        return ("expr", text), (text, "".join(lines), results[-1])

    key, (text, working, answer) = draw(rng, test, make)
    return one_turn("arithmetic", "expr", ask(rng, text), working, str(answer), [key])


# ---- lists -----------------------------------------------------------------------------------------


def sort_problem(rng, test):
    def make(r):
        numbers = r.sample(range(100), r.randint(3, 10))
        return ("sort", *numbers), numbers

    key, numbers = draw(rng, test, make)
    ordered = sorted(numbers)
    working = "".join(f"{tens}:" + "".join(str(n % 10) for n in ordered if n // 10 == tens) + "\n"
                      for tens in range(10))
    question = rng.choice(["Sort these numbers: {}.", "Sort: {}."]).format(", ".join(map(str, numbers)))
    return one_turn("lists", "sort", question, working, ", ".join(map(str, ordered)), [key])


def reverse_problem(rng, test):
    def make(r):
        items = r.sample(NOUNS, r.randint(3, 9))
        return ("reverse", *items), items

    key, items = draw(rng, test, make)
    working = "".join(f"{i + 1} {item}\n" for i, item in enumerate(items))
    question = rng.choice(["Reverse this list: {}.", "Reverse: {}."]).format(", ".join(items))
    return one_turn("lists", "reverse", question, working, " " + ", ".join(reversed(items)), [key])


def count_problem(rng, test):
    def make(r):
        pool = r.sample(NOUNS, r.randint(2, 5))
        items = [r.choice(pool) for _ in range(r.randint(4, 12))]
        return ("count", pool[0], *items), (pool[0], items)

    key, (target, items) = draw(rng, test, make)
    working, seen = f" {target}:", 0
    for item in items:
        seen += item == target
        working += f" {item}{seen}"
    question = rng.choice(["How many times is {} in this list: {}?", "Count {} in: {}."])
    return one_turn("lists", "count", question.format(target, ", ".join(items)), working + "\n", str(seen), [key])


def odd_problem(rng, test):
    def words(r):
        most, other = r.sample(list(CATEGORIES), 2)
        items = [(w, most) for w in r.sample(CATEGORIES[most], r.randint(3, 7))]
        items.insert(r.randint(0, len(items)), (r.choice(CATEGORIES[other]), other))
        return items

    def numbers(r):
        parity = r.randint(0, 1)
        items = [(str(n), "odd" if n % 2 else "even")
                 for n in r.sample(range(parity, 100, 2), r.randint(3, 7))]
        n = r.randrange(1 - parity, 100, 2)
        items.insert(r.randint(0, len(items)), (str(n), "odd" if n % 2 else "even"))
        return items

    def make(r):
        items = r.choice([words, numbers])(r)
        return ("odd one", *(w for w, _ in items)), items

    key, items = draw(rng, test, make)
    kinds = [k for _, k in items]
    answer = next(w for w, k in items if kinds.count(k) == 1)
    space = "" if answer.isdigit() else " "
    working = "".join(f"{w} {k}\n" if w.isdigit() else f" {w} {k}" for w, k in items)
    working = working.rstrip("\n") + f"\n {next(k for k in kinds if kinds.count(k) == 1)}\n"
    question = rng.choice(["Which is the odd one out: {}?", "Find the odd one: {}."])
    return one_turn("lists", "odd", question.format(", ".join(w for w, _ in items)), working, space + answer, [key])


# ---- recall ----------------------------------------------------------------------------------------


def fact(rng, test, thing):
    """One sentence about a thing: (sentence, question, answer, key)."""
    places = [p for p in PLACES if is_test(("place", thing, p)) == test]
    if places and rng.random() < 0.5:
        value = rng.choice(places)
        return f"The {thing} is in the {value}.", f"Where is the {thing}?", " " + value, ("place", thing, value)

    def make(r):
        code = r.randint(1000, 9999)
        return ("code", thing, code), code

    key, code = draw(rng, test, make)
    return f"The code of the {thing} is {code}.", f"What is the code of the {thing}?", str(code), key


def filler(rng):
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(TIMES)}."


FACT_TOKENS, FILLER_TOKENS = 11, 7  # about; contexts are measured by count(), not by these


def recall_problem(rng, test, tokens=None, questions=1, count=None, n_facts=None):
    """A context of about `tokens` tokens: facts, and distractors between; questions about some facts.

    count: text -> its number of tokens. n_facts: else a random share of the context."""
    tokens = tokens or rng.randint(40, 440)
    n_facts = n_facts or max(1, min(questions, tokens // FACT_TOKENS),
                             min(round(rng.uniform(0.15, 0.95) * tokens / FACT_TOKENS), 120))
    things = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], n_facts)
    facts = [fact(rng, test, thing) for thing in things]
    sentences, length = [f[0] for f in facts], 0
    if count is None:
        length = sum(FACT_TOKENS for _ in facts)
    else:
        length = count(" ".join(sentences))
    while length + FILLER_TOKENS <= tokens:
        sentence = filler(rng)
        sentences.append(sentence)
        length += count(" " + sentence) if count else FILLER_TOKENS
    rng.shuffle(sentences)
    turns = []
    for i, chosen in enumerate(rng.sample(facts, min(questions, n_facts))):
        question = ("Notes: " + " ".join(sentences) + " " if i == 0 else "") + chosen[1]
        turns.append((question, chosen[0] + "\n", chosen[2]))
    first = turns[0]
    kind = "code" if first[2].isdigit() else "place"
    return {"task": "recall", "kind": kind, "prompt": first[0], "answer": first[2].strip(), "turns": turns,
            "keys": [f[3] for f in facts], "facts": [f[0] for f in facts]}


# ---- all -------------------------------------------------------------------------------------------

MAKERS = {
    "add": lambda rng, test: sum_problem(rng, test, "+"),
    "sub": lambda rng, test: sum_problem(rng, test, "-"),
    "mul": product_problem,
    "expr": expression_problem,
    "sort": sort_problem,
    "reverse": reverse_problem,
    "count": count_problem,
    "odd": odd_problem,
    "recall": recall_problem,
}


def words():
    """Every word of prompts and workings, as a text the tokenizer is trained on."""
    lists = [*NOUNS, *ADJECTIVES, *PLACES, "animal", "food", "tool", "even", "odd"]
    phrases = [*SUBJECTS, *VERBS, *TIMES]
    return [f" {w}" for w in lists] + [f" {p}" for p in phrases]
