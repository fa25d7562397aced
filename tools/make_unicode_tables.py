#!/usr/bin/env python3
"""Writes coordinator/unicode_tables.cc: what the `tokenizers` package takes every code point for.

The package is asked, not the Unicode database: its regex engine, its case folding, its \\w for single words and its
normaliser each know a Unicode version of their own, and a tokenizer has to agree with them bit for bit.

  build/venv/bin/python tools/make_unicode_tables.py [--output coordinator/unicode_tables.cc]
"""

import argparse
import json
import pathlib
import sys

import tokenizers
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, CODE_POINTS))

# The order is that of the enumeration in coordinator/unicode_tables.h.
CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
              "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"]


def members(regex):
    """The code points a one-character regex matches."""
    split = pre_tokenizers.Split(Regex(f"(?:{regex})+"), "removed", invert=True)
    found = []
    for piece, _ in split.pre_tokenize_str(TEXT):
        found.extend(map(ord, piece))
    return set(found)


def categories():
    category = {}
    for index, name in enumerate(CATEGORIES):
        for c in members(rf"\p{{{name}}}"):
            assert c not in category, f"U+{c:04X} has two categories"
            category[c] = index
    assert len(category) == len(CODE_POINTS), "a code point has no category"
    for name in "LMNPSZ":
        want = {c for c, i in category.items() if CATEGORIES[i][0] == name}
        assert members(rf"\p{{{name}}}") == want, f"\\p{{{name}}} is not the sum of its parts"
        if name in "LMN":
            assert members(rf"[^\p{{{name}}}]") == set(CODE_POINTS) - want
    assert members(r"\d") == {c for c, i in category.items() if CATEGORIES[i] == "Nd"}, r"\d is not \p{Nd}"
    # Surrogates never occur in text; giving them their neighbour's category saves a run.
    runs, last = [], None
    for c in CODE_POINTS:
        if category[c] != last:
            runs.append((c, category[c]))
            last = category[c]
    return category, runs


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def word_characters():
    """\\w as the check of single-word added tokens has it: a token beside one is not taken."""
    spec = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None,
            "added_tokens": [{"id": 1, "content": "#", "single_word": True, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": False}],
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": {"x": 0}, "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    found = set()
    points = [c for c in CODE_POINTS if chr(c) != "#"]
    group = 32
    texts = [points[i:i + group] for i in range(0, len(points), group)]
    # A group without a single hit in `#c #c ...` is looked at in one go; the rest by one text per code point.
    encoded = tokenizer.encode_batch(["".join(f"#{chr(c)}" + "\n" for c in t) for t in texts], add_special_tokens=False)
    single = []
    for points_of, e in zip(texts, encoded):
        if len(e.ids) == len(points_of):
            continue
        single.extend(points_of)
    encoded = tokenizer.encode_batch([f"#{chr(c)}" for c in single], add_special_tokens=False)
    for c, e in zip(single, encoded):
        if 1 not in e.ids:
            found.add(c)
    return found


def case_folds(category):
    """Pairs (a, b), a < b: (?i:a) matches b; and the sequences that one character folds to."""
    cased = {c for c, i in category.items() if CATEGORIES[i] in ("Lu", "Ll", "Lt", "Nl")}
    for c in CODE_POINTS:
        ch = chr(c)
        if {ch.lower(), ch.upper(), ch.title(), ch.casefold()} != {ch}:
            cased.add(c)
            cased.update(ord(x) for x in ch.casefold())
    candidates = sorted(cased)
    text = "\n".join(map(chr, candidates))
    same = {}
    for c in candidates:
        split = pre_tokenizers.Split(Regex(rf"(?i:\x{{{c:x}}})"), "removed", invert=True)
        same[c] = {ord(piece) for piece, _ in split.pre_tokenize_str(text)}
    several = {c: chr(c).casefold() for c in CODE_POINTS if len(chr(c).casefold()) > 1}
    for c, expansion in several.items():
        split = pre_tokenizers.Split(Regex(rf"(?i:\x{{{c:x}}})"), "removed", invert=True)
        assert [p for p, _ in split.pre_tokenize_str(expansion)] == [expansion], f"U+{c:04X} does not fold to {expansion!r}"
    pairs = []
    for c, others in same.items():
        assert c in others, f"(?i:U+{c:04X}) does not match itself"
        for other in others:
            assert same[other] == others or c in several or other in several, f"U+{c:04X}: not an equivalence"
        first = min(others)
        if c != first:
            pairs.append((first, c))
    return sorted(pairs), sorted(several), sorted(set(several.values()))


def normalised_by(normaliser, strings):
    out = normaliser.normalize_str("\n".join(strings)).split("\n")
    assert len(out) == len(strings)
    return out


def normalisation_actors():
    """Code points that canonical (de)composition or reordering touches."""
    points = [c for c in CODE_POINTS if c != 10]
    nfd = normalizers.NFD()
    actors = {0x0334, 0x0345}
    for c, d in zip(points, normalised_by(nfd, [chr(c) for c in points])):
        if d != chr(c):
            actors.add(c)
            actors.update(map(ord, d))
    # Combining class 1 (U+0334) and 240 (U+0345, the largest): every other class but 0 changes places with one of them.
    for mark, before in (("\u0334", False), ("\u0345", True)):
        strings = [mark + chr(c) if before else chr(c) + mark for c in points]
        for c, s, d in zip(points, strings, normalised_by(nfd, strings)):
            if c not in actors and d != s:
                actors.add(c)
    return actors


def rows(items, width=110, indent="    "):
    line, out = indent, []
    for item in items:
        if len(line) + len(item) + 1 > width:
            out.append(line.rstrip())
            line = indent
        line += item + ","
    out.append(line)
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default=str(pathlib.Path(__file__).resolve().parent.parent / "coordinator/unicode_tables.cc"))
    args = parser.parse_args()
    category, runs = categories()
    spaces = members(r"\s")
    assert members(r"\S") == set(CODE_POINTS) - spaces
    folds, folds_to_several, expansions = case_folds(category)

    def array(type_name, name, items):
        return f"const {type_name} {name}Data[] = {{\n{rows(items)}\n}};\n"

    def range_items(points):
        return [f"{{0x{a:X},0x{b:X}}}" for a, b in ranges(points)]

    text = f"""// Generated by tools/make_unicode_tables.py from the behaviour of tokenizers {tokenizers.__version__}: do not edit.
#include "coordinator/unicode_tables.h"

namespace paceline {{
namespace {{

// clang-format off
{array("CategoryRun", "kCategoryRuns", [f"{{0x{c:X},{i}}}" for c, i in runs])}
{array("CodePointRange", "kSpaceRanges", range_items(spaces))}
{array("CodePointRange", "kWordRanges", range_items(word_characters()))}
{array("CodePointRange", "kNormalizationRanges", range_items(normalisation_actors()))}
{array("CaseFold", "kCaseFolds", [f"{{0x{a:X},0x{b:X}}}" for a, b in folds])}
{array("CodePointRange", "kFoldsToSeveral", range_items(folds_to_several))}
{array("CaseExpansion", "kCaseExpansions", ["{" + ",".join(f"0x{ord(x):X}" for x in e) + "}" for e in expansions])}
// clang-format on

}}  // namespace

const std::span<const CategoryRun> kCategoryRuns(kCategoryRunsData);
const std::span<const CodePointRange> kSpaceRanges(kSpaceRangesData);
const std::span<const CodePointRange> kWordRanges(kWordRangesData);
const std::span<const CodePointRange> kNormalizationRanges(kNormalizationRangesData);
const std::span<const CaseFold> kCaseFolds(kCaseFoldsData);
const std::span<const CodePointRange> kFoldsToSeveral(kFoldsToSeveralData);
const std::span<const CaseExpansion> kCaseExpansions(kCaseExpansionsData);

}}  // namespace paceline
"""
    pathlib.Path(args.output).write_text(text)
    print(f"{args.output}: {len(runs)} category runs, {len(folds)} folds, {text.count(chr(10))} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
