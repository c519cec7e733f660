"""The tokenizer of the demonstration model: byte-level BPE in the family's format.

    pip install tokenizers        (0.23.2 or later)

Its merges come from the words of the tasks (tasks.words and the questions), so a word is one token and
a digit is one token. The embedding has VOCAB_ROWS rows, a multiple of 128; the last few belong to no token.
"""

import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tasks

# The split of the Ring and Ling tokenizers: single digits, letters with what stands before them.
SPLIT = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
         r"|\s*[\r\n]|\s+(?!\S)|\s+")
SPECIAL = ["<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|role_end|>", "<role>", "</role>"]
TEXT = ["<think>", "</think>"]  # one token each, and shown as text
VOCAB_ROWS = 640

TEMPLATE = ("{% for message in messages %}{% set role = message['role'] | lower %}{% if role == 'user' %}"
            "{% set role = 'HUMAN' %}{% endif %}{% set role = role | upper %}{{ '<role>' + role + '</role>' + "
            "message['content'] + '<|role_end|>' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<role>ASSISTANT</role><think>\\n' }}{% endif %}")


def prompt_text(question):
    """What TEMPLATE makes of one question, up to where the model writes on."""
    return f"<role>HUMAN</role>{question}<|role_end|><role>ASSISTANT</role><think>\n"


def answer_text(working, answer):
    return f"{working}</think>{answer}<|role_end|>"


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(7)
    text = [w for w in tasks.words() for _ in range(20)] + ["HUMAN", "ASSISTANT"] * 20
    for maker in tasks.MAKERS.values():
        text += [maker(rng, False)["prompt"] for _ in range(150)]
    text += ["The code of the a is 1. What is the code of the b? Where is the c? How many times is a in this list: b?"
             " Which is the odd one out: a? Find the odd one: a. Sort these numbers: 1. Reverse this list: a. Count a in: b."
             " Compute 1. Notes: The"] * 40
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_ROWS - len(SPECIAL) - len(TEXT), show_progress=False,
                                  min_frequency=10, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer.add_tokens([AddedToken(s, special=False, normalized=False) for s in TEXT])
    return tokenizer


def write(tokenizer, directory):
    """tokenizer.json, tokenizer_config.json and generation_config.json."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (directory / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    config = {"add_bos_token": False, "add_eos_token": False, "bos_token": "<|startoftext|>",
              "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False, "cls_token": "[CLS]",
              "eos_token": "<|role_end|>", "gmask_token": "[gMASK]", "model_max_length": 32768,
              "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    generation = {"bos_token_id": ids["<|startoftext|>"], "pad_token_id": ids["<|endoftext|>"],
                  "eos_token_id": [ids["<|endoftext|>"], ids["<|role_end|>"]]}
    for name, value in (("tokenizer_config", config), ("generation_config", generation)):
        (directory / f"{name}.json").write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
