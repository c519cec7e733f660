#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers: small byte-level BPE tokenizers, and what they must encode to.

    pip install tokenizers        (0.23.3 made what is committed)
    python3 tests/reference/make_tokenizers.py

The ids come from the `tokenizers` library, so the tests compare rondo with an implementation it shares no
code with. Training text is this repository's own: its sources as they are then, and the sentences below, so a new run
changes all files together.

    NAME/tokenizer.json         one tokenizer
    pre_tokens.json             the spans that single pre-tokenizers make
    NAME/expected.json          [{"text": ..., "special": bool, "ids": [...]}]: encode(text) is ids
    demo/tokenizer_config.json  with a chat template of the family; `demo` is what demonstration checkpoints use
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "tokenizers"

# the split of the Ring and Ling tokenizers, and two other families' that differ in digits and newlines
BAILING = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

FAMILY_SPECIAL = ["<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|role_end|>", "<role>", "</role>"]

SENTENCES = """
A rondo is a piece in which one theme keeps coming back. Between its returns there are episodes, each with
a colour of its own. I've heard it said that the refrain can't surprise; they're wrong, and we'll show it.
The model reads a token, updates its state, and goes on. It doesn't look back at everything it has seen:
it keeps a matrix per head, and lets it decay. Every few layers it looks back after all.
What is 12 times 34? It is 408. What is 2 + 2? It is 4. In 2025 there were 365 days, and 8760 hours.
Ein Rondo ist ein Stück, in dem ein Thema immer wiederkehrt. Größe, Straße, Übung, Äpfel, öfter.
Le thème revient toujours; entre ses retours, des épisodes. Où est-il passé? À la forêt, bien sûr.
El tema vuelve una y otra vez, con episodios de otro color. ¿Dónde está? ¡Allí mañana!
Тема возвращается снова и снова, а между её возвращениями звучат эпизоды. Где она? Там, за рекой.
主题一次又一次地回来，中间是不同颜色的插段。模型读一个词，更新它的状态，然后继续。今天天气很好。
主題は何度も戻ってくる。その間にはエピソードがある。モデルは言葉を一つ読んで、状態を更新する。
주제는 계속 돌아온다. 그 사이에는 에피소드가 있다. 오늘은 날씨가 좋다.
الموضوع يعود مرة بعد مرة. النموذج يقرأ كلمة ثم يمضي. विषय बार बार लौटता है। मॉडल एक शब्द पढ़ता है।
def step(state, key, value, decay):
    return decay * state + outer(key, value)
for (int i = 0; i < n; i++) {
	sum += a[i] * b[i];
}
{"name": "get_weather", "arguments": {"city": "Hangzhou", "days": 3}}
<think>
Let me think about it step by step.
</think>
"""


def training_text():
    files = sorted(p for d in ("core", "formats", "tests/reference") for p in (ROOT / d).glob("*.[chp]*"))
    return [line + "\n" for line in SENTENCES.strip().splitlines() for _ in range(8)] + [
        p.read_text(encoding="utf-8") for p in files]


def texts():
    rng = random.Random(20240611)
    fixed = [
        "", " ", "  ", "\n", "\r\n", "\t", "a", "Hello, world!", "I've they're we'll IT'S CAN'T he'D 'Ll 'x '",
        "The theme comes back.\nAnd again.\r\n\r\n  And again.   \n\n\n", "   leading", "trailing   ",
        "a  b   c    d", "a\u00a0b\u2003c\u3000d\u0085e\u180ef\u200bg", "x = 12345678901234567890;",
        "1 22 333 4444 55555", "\u0661\u0662\u0663 \u00bd \u2167 \u2460 \u0be7", "3.14159 1,000,000 -5e-10",
        "Größe Straße ÄÖÜ äöü ß ẞ", "caf\u00e9 cafe\u0301 \u212b \u00c5 A\u030a",
        "\ufb01ne \uff21\uff22\uff23 \u00b2\u2075 \u3392 \ufdfa", "\u1e9b\u0323 \u1100\u1161\u11a8 각",
        "主题一次又一次地回来，今天天气很好。", "状態を更新する。モデル", "주제는 계속 돌아온다", "أهلا بالعالم", "नमस्ते दुनिया",
        "\U0001f600\U0001f469\u200d\U0001f4bb\U0001f1e9\U0001f1ea \u2764\ufe0f", "e\u0301\u0302\u0303\u0304", "\u0301\u0301",
        "it's IT\u2019S \u017f 'S '\u017f '\u212a", "a\tb\t\tc\n\t\td", "\r\r\n\n\r", " \n \n", "\n \n a", "  \n\n  b",
        "!!!???...---", "foo.bar(baz)[0] += {\"k\": 'v'};", "// comment\n\n\n/* x */", "http://x.y/z?a=b&c=d#e",
        "\u0001\u001f\u007f", "\x1c\x1d", "aaaaaaaaaaaaaaaaaaaaaaaa", "ab" * 100, " " * 200, "\n" * 100,
        "=" * 300, "!" * 65 + "\n\n", "\u4e00" * 150, "state" * 40, "<think>\nok\n</think>\n\nyes",
        "the the the the", "The model reads a token, updates its state, and goes on. " * 20,
        "a" * 1000, "0" * 100, "z\U0010ffff\ue000\ufffd",
    ]
    pools = ["abcdefghij ETAOIN", " \n\r\t", "0123456789", ".,;:!?'\"()[]{}<>|", "äöüßéèñç", "主题一次回来今天天气",
             "Темавозращтся", "\u0301\u0308\u0327", "\U0001f600\U0001f3b5\u200d\ufe0f", "'stdmllvere", "\u00a0\u2009\u3000"]
    for n in (3, 7, 15, 40, 90, 200, 500):
        for _ in range(6):
            fixed.append("".join(rng.choice(rng.choice(pools)) for _ in range(n)))
    # one pre-token of many bytes, with merges that overlap each other
    words = [w for w in SENTENCES.split() if w.isascii() and w.isalpha()]
    for n in (15, 25, 60):
        fixed += ["".join(rng.choice(words) for _ in range(n)), "".join(rng.choice("theinaors") for _ in range(5 * n))]
    return fixed


def special_texts(names):
    a, b = names[0], names[-1]
    out = [a, b, a + b, "x" + a + "y", " " + a + " ", "text " + a + "\n" + b + " more  " + a * 3 + ".", a[:-1],
           a[1:], "<" + a, a + ">", "".join(names), "  ".join(names) + "\n", "ü" + a + "ü", a + "é" + b + "\n\n"]
    return out


def train(vocab_size, pre_tokenizer, normalizer=None, special=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, max_token_length=16,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return tokenizer


def split_then_bytes(pattern, behavior="isolated"):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def write(name, tokenizer, extra=(), merges_as_strings=False, specials=()):
    directory = OUT / name
    directory.mkdir(parents=True, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if merges_as_strings:
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        # a string splits at its space, so ids must not depend on which form the file has
        assert Tokenizer.from_str(json.dumps(data)).encode("The theme").ids == tokenizer.encode("The theme").ids
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (directory / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    expected = []
    for special in (True, False):
        tokenizer.encode_special_tokens = not special
        for sample in (texts() if special else []) + special_texts(specials or ["<|endoftext|>"]) + list(extra):
            expected.append({"text": sample, "special": special, "ids": tokenizer.encode(sample).ids})
    lines = ",\n".join(json.dumps(e, separators=(",", ":")) for e in expected)
    (directory / "expected.json").write_text("[\n" + lines + "\n]\n", encoding="utf-8")
    print(f"{name}: {tokenizer.get_vocab_size()} tokens, {len(text)} bytes, {len(expected)} texts")


def write_pre_tokens():
    """pre_tokens.json: [{"pre_tokenizer": ..., "text": ..., "pieces": [...]}], pieces as byte-level characters."""
    patterns = [BAILING, QWEN, LLAMA, r"\w+", r"\W+", r"[\w.]+", r"\s+", r"\S+", r"[^\s,]+", r"\d+|\D", r"q*", r"x*|b", r"(?=b)",
                r"^.", r".$", r"\p{Han}+", r"\p{Greek}+|\P{L}", r"\p{^L}+", r"[\p{Lu}\p{Lt}][\p{Ll}]{1,3}+", r"a{2}", r"(?:ab){1,2}+c?",
                r"(ab|[b-d]{1,2})+", r"\p{N}{1,3}+", r"(?i:ab)c", r"(?<=a)b", r"a(?!b)", r"(?<!a)b", r"a++b|a", r"[]a-c]+",
                r"é|\n", r"[[:punct:]]+", r"[x[:space:]]", r"[^[:word:]]", r"."]
    samples = ["", "aab abab ababc q qqaqbqqq xxb b", "It's ΑΒγ Éé 主题。 x1234567y \t\n\n z", "a,b;;c  ,,d\n\na^b$\r\nXyzzy ǅab AbC",
               "  lead  and trail  ", "٣٤ ½ e\u0301 \u00a0 \u0345 _a_", "]a] [b] aab", "\n", "b", "主", "κaιb",
               "²³¹¼½¾ ⅔ Ⓐⓩ \U0001f130\U0001f189 x\u200dy ♥ € ^+$ « » \u180e \x1c"]
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        for pattern in (r"[ab]", r"q*", r"\s+", r"(?=b)"):
            steps += [pre_tokenizers.Split(Regex(pattern), behavior, invert) for invert in (False, True)]
    steps += [pre_tokenizers.Split("ab", "isolated"), pre_tokenizers.Split(".", "isolated"), pre_tokenizers.Split("", "removed"),
              pre_tokenizers.Split(Regex(r"a"), "isolated", invert=True), pre_tokenizers.Digits(True), pre_tokenizers.Digits(False)]
    cases = []
    for step in steps:
        sequence = pre_tokenizers.Sequence([step, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = sequence
        described = json.loads(tokenizer.to_str())["pre_tokenizer"]
        cases.append({"pre_tokenizer": described,
                      "texts": [{"text": t, "pieces": [p for p, _ in sequence.pre_tokenize_str(t)] if t else []}
                                for t in samples]})
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (OUT / "pre_tokens.json").write_text("[\n" + lines + "\n]\n", encoding="utf-8")
    print(f"pre_tokens: {len(cases)} pre-tokenizers")


def demo_config():
    template = (ROOT / "tests" / "fixtures" / "templates" / "ring_mini.jinja").read_text(encoding="utf-8")
    return {"add_bos_token": False, "add_eos_token": False, "bos_token": "<|startoftext|>",
            "chat_template": template, "clean_up_tokenization_spaces": False, "cls_token": "[CLS]",
            "eos_token": "<|endoftext|>", "gmask_token": "[gMASK]", "model_max_length": 131072,
            "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}


def main():
    demo = train(1500, split_then_bytes(BAILING), special=FAMILY_SPECIAL)
    write("demo", demo, specials=FAMILY_SPECIAL)
    (OUT / "demo" / "tokenizer_config.json").write_text(
        json.dumps(demo_config(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    write_pre_tokens()

    # the older form of the file, a normalizer, added tokens that are not special
    qwen = train(700, split_then_bytes(QWEN), normalizers.NFC(), ["<|endoftext|>", "<|im_end|>"])
    qwen.add_tokens([AddedToken("<think>", special=False, normalized=False),
                     AddedToken("</think>", special=False, normalized=False)])
    write("nfc", qwen, merges_as_strings=True, specials=["<|endoftext|>", "<|im_end|>", "<think>"])

    # every flag of an added token, prefixes of each other, and tokens matched on normalised text
    flags = train(500, split_then_bytes(LLAMA), normalizers.NFKC(), ["<|x|>"])
    flags.add_special_tokens([AddedToken("<|xx|>", special=True, normalized=False),
                              AddedToken("<|x", special=True, normalized=False),
                              AddedToken("<L>", special=True, lstrip=True, normalized=False),
                              AddedToken("<R>", special=True, rstrip=True, normalized=False),
                              AddedToken("<B>", special=True, lstrip=True, rstrip=True, normalized=False)])
    flags.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("Ünit", normalized=True),
                      AddedToken("\uff21BC", normalized=True), AddedToken("two words", normalized=False),
                      AddedToken("<M>", normalized=True, rstrip=True), AddedToken("<N>", normalized=True, lstrip=True)])
    write("flags", flags, specials=["<|x|>", "<|xx|>", "<|x", "<L>", "<R>", "<B>", "word", "Ünit"], extra=[
        "a word. words sword word_ wordé word", "keyword word\u0301 (word)", "U\u0308nit Ünit unit", "ABC \uff21\uff22\uff23",
        "a \n <L> b <R> \t c  <B>  d", "<L>\u3000<R>\u00a0<B> ", "<R> <L> <B><R>  <L>", "two  words two words",
        "<|x|><|xx|><|x<|x|", "  <B>  <B>  ",
        "<M>  <N>", "a <M> \u3000<N> <N><M> b", "<M> <R> <N>"])

    # GPT-2's own pre-tokenizer, with a prefix space and a template that puts tokens round the text
    gpt2 = train(400, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True), special=["<s>", "</s>"])
    gpt2.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B </s>",
                                      special_tokens=[("<s>", gpt2.token_to_id("<s>")),
                                                      ("</s>", gpt2.token_to_id("</s>"))])])
    # a text that brings <s> along gets no second one from rondo, so those are left to other fixtures
    write("gpt2", gpt2, specials=["<mask>"])

    # whole pre-tokens first, and every Split behaviour there is
    steps = [pre_tokenizers.Digits(individual_digits=False),
             pre_tokenizers.Split(Regex(r"[,;]"), "merged_with_previous"),
             pre_tokenizers.Split(Regex(r"[(\[]"), "merged_with_next"),
             pre_tokenizers.Split("!", "contiguous"), pre_tokenizers.Split(Regex(r"\t"), "removed"),
             pre_tokenizers.Split(Regex(r" ?[\w']+|[^\w']{1,4}+"), "isolated", invert=False),
             pre_tokenizers.Split(Regex(r"\S+"), "merged_with_previous", invert=True),
             pre_tokenizers.Split(Regex(r"q*"), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    splits = train(450, pre_tokenizers.Sequence(steps), normalizers.Sequence([normalizers.NFD(), normalizers.NFKC()]))
    data = json.loads(splits.to_str())
    data["model"]["ignore_merges"] = True
    write("splits", Tokenizer.from_str(json.dumps(data)), extra=[
        "a,b;;c,,,d(e((f[(g", "wow!!! so! !!", "tab\tbed\t\tx", "qqaqbqqq q", "it's  a   test    of     spaces", "((,;!!\t\t1234"])


if __name__ == "__main__":
    main()
