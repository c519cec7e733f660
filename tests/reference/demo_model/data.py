"""Endless packed training sequences, and the held-out problems as packed sequences, as token arrays."""

import queue
import random
import threading

import numpy as np

import tasks
import tokenizer as tokens

# Share of documents of each kind; recall documents are several times longer than others.
SHARES = {"add": 10, "sub": 10, "mul": 13, "expr": 26, "sort": 18, "reverse": 5, "count": 26, "odd": 18, "recall": 22}

DRILLS = 0.4  # share of recall documents with a drill


def encode(tokenizer, problem):
    """(ids, mask): mask is 1 on what the model is to write.

    A problem with a "drill", a list of sentences, has them between context and question, and their last
    words count as what the model is to write: facts said again, so that a context teaches recall often."""
    texts, flags = [], []
    for question, working, answer in problem["turns"]:
        prompt = tokens.prompt_text(question)
        if "drill" in problem and not texts:
            context, _, last = question.rpartition(". ")
            prompt, rest = tokens.prompt_text(context + ".").split("<|role_end|>", 1)
            texts.append(prompt)
            flags.append(0)
            for sentence in problem["drill"]:
                known, _, asked = sentence.rpartition(" ")
                texts += [" " + known, " " + asked]
                flags += [0, 1]
            prompt = f" {last}<|role_end|>{rest}"
        texts += [prompt, tokens.answer_text(working, answer)]
        flags += [0, 1]
    parts = [e.ids for e in tokenizer.encode_batch(texts)]
    ids = np.concatenate(parts).astype(np.int32)
    mask = np.concatenate([np.full(len(p), f, np.int8) for p, f in zip(parts, flags)])
    return ids, mask


def training_problem(rng, length):
    """One problem of the training side; recall fills up to `length` tokens of a sequence."""
    if length > 1024 and rng.random() < 0.5:
        # A context that fills much of a long sequence, and questions enough to be worth it.
        return tasks.recall_problem(rng, False, tokens=rng.randint(length // 4, length - 12 - 38 * 12), questions=12,
                                    count=count_tokens)
    kind = rng.choices(list(SHARES), SHARES.values())[0]
    if kind != "recall":
        return tasks.MAKERS[kind](rng, False)
    if rng.random() < DRILLS:
        size = rng.randint(40, rng.randint(40, length // 2 - 20))
        problem = tasks.recall_problem(rng, False, tokens=size, questions=2, count=count_tokens)
        problem["drill"] = rng.sample(problem["facts"], min(len(problem["facts"]), (length - 100 - size) // 13))
        return problem
    questions = rng.choice([1, 2, 3, 4, 4, 4])
    # 12 tokens to close the prompt, about 38 for each question and answer.
    room = min(length, 512) - 12 - 38 * questions
    low = min(40, room)
    size = rng.randint(low, rng.randint(low, room))  # short ones are more frequent
    return tasks.recall_problem(rng, False, tokens=size, questions=questions, count=count_tokens)


class Packer:
    """Fills rows of `length` tokens with whole documents."""

    def __init__(self, length, draw):
        self.length, self.draw, self.pool = length, draw, []

    def row(self):
        """(ids, segments, mask) [length]; documents in the order drawn, as many as fit."""
        ids, segments, mask = (np.zeros(self.length, t) for t in (np.int32, np.int32, np.int8))
        at, segment = 0, 1
        while True:
            while len(self.pool) < 24:
                self.pool.append(self.draw())
            fits = next((i for i, d in enumerate(self.pool) if at + len(d[0]) <= self.length), None)
            if fits is None:
                if not at:
                    self.pool.pop(0)  # longer than a row
                    continue
                return ids, segments, mask
            doc, doc_mask = self.pool.pop(fits)
            end = at + len(doc)
            ids[at:end], segments[at:end], mask[at:end] = doc, segment, doc_mask
            at, segment = end, segment + 1


def count_tokens(text):
    """Tokens of a recall context, near enough and far faster than encoding it: one a word, one a digit and
    the blank before a number, one a full stop."""
    return text.count(" ") + text.count(".") + sum(c.isdigit() for c in text)


def batches(tokenizer, seed, rows, length):
    """Endless (ids, segments, mask) [rows, length]."""
    rng = random.Random(seed)
    packer = Packer(length, lambda: encode(tokenizer, training_problem(rng, length)))
    while True:
        yield tuple(np.stack(x) for x in zip(*(packer.row() for _ in range(rows))))


def ahead(iterator, depth=4):
    """The iterator, run by a thread of its own."""
    items = queue.Queue(depth)

    def fill():
        for item in iterator:
            items.put(item)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield items.get()


def packed_problems(tokenizer, problems, length, rows):
    """[(batch, documents)]: batches of `rows` rows holding all problems once; documents lists (row, segment,
    problem) of each."""
    docs = sorted(((encode(tokenizer, p), p) for p in problems), key=lambda d: -len(d[0][0]))
    bins = []
    for (ids, mask), problem in docs:
        if len(ids) > length:
            raise ValueError(f"a problem of {len(ids)} tokens in rows of {length}")
        row = next((b for b in bins if b["used"] + len(ids) <= length), None)
        if row is None:
            row = {"used": 0, "docs": []}
            bins.append(row)
        row["docs"].append((ids, mask, problem))
        row["used"] += len(ids)
    result = []
    for start in range(0, len(bins), rows):
        batch = [np.zeros((rows, length), t) for t in (np.int32, np.int32, np.int8)]
        documents = []
        for r, row in enumerate(bins[start:start + rows]):
            at = 0
            for s, (ids, mask, problem) in enumerate(row["docs"]):
                end = at + len(ids)
                batch[0][r, at:end], batch[1][r, at:end], batch[2][r, at:end] = ids, s + 1, mask
                documents.append((r, s + 1, problem))
                at = end
        result.append((batch, documents))
    return result
