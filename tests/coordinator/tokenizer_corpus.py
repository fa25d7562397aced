#!/usr/bin/env python3
"""Compares our tokenizer with the `tokenizers` package on awkward Unicode, made the same way every time.

  tokenizer_corpus.py DUMP FOLDER...

DUMP is the tokenizer_dump binary; each FOLDER holds a tokenizer.json. Files that no folder has (flags in other
combinations, ignore_merges, a ByteLevel of its own, missing bytes) are derived from the first folder.
"""

import copy
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

try:
    from tokenizers import Tokenizer, normalizers
except ImportError:
    sys.exit("tokenizer_corpus.py: the package 'tokenizers' is missing: make build/venv from tests/requirements.txt")

WORDS = ["the", "don't", "I'LL", "we'RE", "it'\u017f", "'S", "'\u017f\u017f", "na\u00efve", "na\u0131ve", "\u212aelvin", "stra\u00dfe", "\ufb01x",
         "hello", "x86_64", "3.14", "1e10", "\u0661\u0662\u0663", "\u0967\u0968", "\U0001d7d8\U0001d7d9", "\u2167", "\u00bd", "\u2460",
         "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab", "\u65e5\u672c\u8a9e", "\u0645\u0631\u062d\u0628\u0627",
         "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "cafe\u0301", "caf\u00e9", "a\u0323\u0307", "a\u0307\u0323", "\u0344", "\u1e9b\u0323", "q\u0307\u0323", "\u0958", "\u2126", "\u212b", "\uf900",
         "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d\U0001f3fd", "\u180e", "\u0085", "\u00a0", "\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", "\u00ad",
         "\r\n", "\n\n\n", "\t", "  ", "   ", "        ", " \n ", "\n \n", "\r", "\v\f", "\x00", "\x1c", "\x7f", "_", "--", "!!!", "...\n\n", "://", "{}[]", "\u2014", "\u00bf", "\u20ac", "\u2211",
         "\U000e0001", "\U000fffff", "\U0010ffff", "\ufffe", "\ufffd", "\u0378", "\U00011938", "\U0001e4ec", "\U00010d69", "\U00016d67", "\U000105c9", "\u1ace", "\u0897", "\U00010efd",
         "<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user", "<|im_", "tool", "tools", "tool_call", "<tool_call>",
         "<\u5de5\u5177>", "<|im_start|", "|>", "assistant\n"]


def texts(added):
    """Several thousand strings, from the seed alone."""
    rng = random.Random(20)
    words = WORDS + added
    out = ["", " ", "\n"] + words + [a + b for a in added for b in ["x", " x", "x ", "\u0301", "\u00a0", "\n", "_", "\u200d", "9"]]
    out += [b + a for a in added for b in ["x", " x", "x ", "\u0301", "\u00a0", "\n", "_", "\u200d", "9", "   "]]
    for _ in range(2500):
        glue = rng.choice(["", "", " ", "\n"])
        out.append(glue.join(rng.choice(words) for _ in range(rng.randint(1, 12))))
    blocks = [(0x20, 0x7F), (0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x590, 0x800), (0x900, 0x1000), (0x1000, 0x1200), (0x1100, 0x1200),
              (0x1780, 0x1B00), (0x1AB0, 0x1B00), (0x1DC0, 0x2100), (0x2000, 0x2070), (0x2100, 0x2C00), (0x3000, 0x3200), (0xA640, 0xABFF), (0xAC00, 0xD7FF),
              (0xF900, 0x10000), (0x10000, 0x12000), (0x16000, 0x17000), (0x1D100, 0x1D250), (0x1E000, 0x1F000), (0x1F300, 0x1FB00), (0x20000, 0x30000), (0, 0x110000)]
    def character(low, high):
        while True:
            c = rng.randrange(low, high)
            if not 0xD800 <= c <= 0xDFFF:
                return chr(c)
    for _ in range(4000):
        low, high = rng.choice(blocks)
        mixed = rng.random() < 0.4
        parts = []
        for _ in range(rng.randint(1, 24)):
            if mixed and rng.random() < 0.3:
                parts.append(rng.choice([" ", "a", "'", "1", "\n", "\u0301", "\u0323", "\u0334", "\u0345", "  ", "'s", "K", "\u1161", "\u11a8"]))
            else:
                parts.append(character(low, high))
        text = "".join(parts)
        if rng.random() < 0.2:
            text = unicodedata.normalize("NFD", text)
        out.append(text)
    # Every code point between letters, once: 128 to a string, each in its own word.
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and not 0x30000 <= c < 0xE0000 and not 0xF0000 <= c]
    for i in range(0, len(points), 128):
        out.append("".join(f"a{chr(c)}b {chr(c)}{chr(c)}" for c in points[i:i + 128]))
    for run in [" " * 1000, " " * 1000 + "x", "\n" * 777, " \n" * 500, "a" * 5000, "ab" * 3000, "\u0301" * 500, "\u0323\u0301" * 40, "e" + "\u0301\u0323\u0334\u0345" * 200 + "x", "\u00e9" + "\u0344\u0f73\u0323" * 100 + "\u0301", "\u1112" + "\u0301\u0f75\U0001e4ec" * 90, "!" * 2000, "9" * 300,
                "\u65e5" * 1000, "\U0001f600" * 300, "the " * 1000, "\u200d" * 300, "x" + " " * 999 + "\n" + " " * 999, "\r\n" * 300]:
        out.append(run)
    return out


def variants(spec):
    """Files of our own making that lie off the beaten path."""
    def token(spec, offset, content, **flags):
        base = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
        return dict(base, id=len(spec["model"]["vocab"]) + offset, content=content, **flags)

    flags = copy.deepcopy(spec)
    flags["added_tokens"] = [
        token(flags, 0, "<|im_start|>", special=True, rstrip=True), token(flags, 1, "<|im_end|>", special=True, lstrip=True, rstrip=True),
        token(flags, 2, "tool", single_word=True), token(flags, 3, "caf\u00e9", normalized=True, single_word=True),
        token(flags, 4, "  "), token(flags, 5, " x", lstrip=True), token(flags, 6, "im_start|>u"), token(flags, 7, "e\u0301", normalized=True, lstrip=True),
        token(flags, 8, "<think>", special=True, normalized=True), token(flags, 9, "think>a"), token(flags, 10, "\u212b", normalized=True),
        token(flags, 11, "\u0301", normalized=False), token(flags, 12, "ool", normalized=True), token(flags, 13, "\n", rstrip=True, single_word=True)]
    yield "flags", flags

    whole = copy.deepcopy(spec)
    whole["model"]["ignore_merges"] = True
    base = max(whole["model"]["vocab"].values()) + 1
    for i, word in enumerate(["hello", "the", "\u0120hello", "cafe"]):
        if word not in whole["model"]["vocab"]:
            whole["model"]["vocab"][word] = base + i
    whole["model"]["vocab"] = {w: i for i, w in enumerate(whole["model"]["vocab"])}
    whole["added_tokens"] = []
    yield "ignore-merges", whole

    plain = copy.deepcopy(spec)
    plain["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain["normalizer"] = None
    yield "byte-level", plain

    holes = copy.deepcopy(spec)
    gone = {"z", "Q", "\u00c3", "\u0120"}
    holes["model"]["vocab"] = {w: i for i, w in enumerate(w for w in holes["model"]["vocab"] if not gone & set(w))}
    holes["model"]["merges"] = [m for m in holes["model"]["merges"] if not gone & set("".join(m))]
    holes["added_tokens"] = []
    yield "missing-bytes", holes

    patterns = {
        "gpt-4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        "cases": r"[\p{Lu}\p{Lt}]+[\p{Ll}\p{Lm}]*|\P{L}(?=\d)|[^\S\n]{2,3}|\p{^M}\p{Mn}|(?i:[k-m\u03C3]+)|(?i:\x{3C9}\u00E5)|\S$|\D{,2}|^",
        "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "empty": r"x*|(?<=a)b?|[\u4e00-\u9fa5\u3040-\u309f]+",
    }
    for name, pattern in patterns.items():
        other = copy.deepcopy(spec)
        other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        if name == "deepseek":
            first = copy.deepcopy(other["pre_tokenizer"]["pretokenizers"][0])
            first["pattern"]["Regex"] = r"\p{N}{1,3}"
            other["pre_tokenizer"]["pretokenizers"].insert(0, first)
        yield name, other


def ask(dump, argument, requests):
    data = b"".join(struct.pack("<BI", ord(flag), len(text.encode())) + text.encode() for flag, text in requests)
    done = subprocess.run([dump, argument], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"tokenizer_corpus.py: {dump} {argument}: {done.stderr.decode()}")
    lines = done.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(requests), f"{len(lines)} answers for {len(requests)} texts"
    return lines


def compare(name, dump, folder):
    path = pathlib.Path(folder, "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    added = [t["content"] for t in json.loads(path.read_text())["added_tokens"]]
    corpus = texts(added)
    wrong = 0
    for flag in "sp":
        tokenizer.encode_special_tokens = flag == "p"
        want = [e.ids for e in tokenizer.encode_batch(corpus, add_special_tokens=False)]
        for text, ids, line in zip(corpus, want, ask(dump, folder, [(flag, t) for t in corpus])):
            if line.split() != [str(i) for i in ids]:
                wrong += 1
                if wrong <= 10:
                    print(f"{name} ({flag}) {text[:60]!r}: {line[:120]} instead of {ids[:24]}")
    print(f"{name}: {2 * len(corpus)} texts, {wrong} differ", flush=True)
    return wrong


def compare_nfc(dump):
    """Every code point alone, behind and before marks: the two normalisers, directly."""
    nfc = normalizers.NFC()
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    strings = []
    for i in range(0, len(points), 64):
        strings.append("".join(f"{c}\u0301 a{c}\u0334\u0323{c} \u0345{c}\u1161{c}\u11a8\u09be|" for c in points[i:i + 64]))
    wrong = 0
    for text, line in zip(strings, ask(dump, "--nfc", [("s", t) for t in strings])):
        if bytes.fromhex(line).decode() != nfc.normalize_str(text):
            wrong += 1
            print(f"NFC around U+{ord(text[0]):04X} differs")
    print(f"NFC: {len(strings)} texts, {wrong} differ", flush=True)
    return wrong


def main():
    dump, folders = sys.argv[1], sys.argv[2:]
    if not folders:
        sys.exit(__doc__)
    wrong = compare_nfc(dump)
    for folder in folders:
        wrong += compare(pathlib.Path(folder).name, dump, folder)
    spec = json.loads(pathlib.Path(folders[0], "tokenizer.json").read_text())
    for name, variant in variants(spec):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "tokenizer.json").write_text(json.dumps(variant))
            wrong += compare(name, dump, folder)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
