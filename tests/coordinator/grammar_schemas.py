"""Schemas, expressions and grammars against what Python makes of them: every text drawn from a constraint's masks is right by
the oracle (jsonschema with its format checks, re), and of texts written here those are accepted that the oracle accepts.

  grammar_schemas.py GRAMMAR_SAMPLE MODEL_DIR [SAMPLES]
"""
import json
import re
import subprocess
import sys

try:
    import jsonschema
except ImportError:
    sys.exit("the package jsonschema is missing: `./run test` makes build/venv from tests/requirements.txt")

SAMPLE, MODEL = sys.argv[1:3]
COUNT = int(sys.argv[3]) if len(sys.argv) > 3 else 12

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                   "email": {"type": "string", "format": "email"}},
    "required": ["name", "age"], "additionalProperties": False}
TREE = {
    "$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
                                                       "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3}},
                       "required": ["value"], "additionalProperties": False}},
    "$ref": "#/$defs/node"}
LINKED = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"],
          "additionalProperties": False}

# Schema; instances: what the oracle says of each decides. A list of compact and one of spaced texts is made of them.
SCHEMAS = [
    (True, [1, "a", None, [1, {"a": []}], {}, -1.5e3]),
    ({}, [1, "a", None, [[[]]], {"a": {"b": "c"}}]),
    ({"type": "null"}, [None, 0, False, ""]),
    ({"type": "boolean"}, [True, False, 0, "true"]),
    ({"type": "string"}, ["", "a", "\"\\/\b\f\n\r\t", "äöü€😀", 1, None]),
    ({"type": "string", "minLength": 2, "maxLength": 4}, ["", "a", "ab", "😀😀😀😀", "abcde", "\n\n"]),
    ({"type": "string", "minLength": 3}, ["ab", "abc", "x" * 300]),
    ({"type": "string", "pattern": "^[a-z]{2,4}-\\d+$"}, ["ab-1", "a-1", "abcd-123", "abcde-1", "ab-", " ab-1"]),
    ({"type": "string", "pattern": "b+c"}, ["bc", "abbcd", "b", "", "xxbbbcyy\"\\\n"]),
    ({"type": "string", "pattern": "^a|b$"}, ["a", "ab", "xb", "x", "bx", "abx"]),
    ({"type": "string", "pattern": "^(\"|\\\\|\\n)+$"}, ["\"", "\\\"", "\n", "n", ""]),
    ({"type": "string", "pattern": "^\\W\\D\\S$"}, ["--x", "a1 ", "é٣\u00a0", "   "]),
    ({"type": "string", "pattern": ""}, ["", "x"]),
    ({"type": "integer"}, [0, -0, 5, -17, 10**17, 1.5, "1"]),
    ({"type": "integer", "minimum": 0, "maximum": 120}, [-1, 0, 1, 9, 10, 99, 100, 119, 120, 121, 1000]),
    ({"type": "integer", "minimum": -105, "maximum": -7}, [-106, -105, -100, -99, -10, -8, -7, -6, 0, 7]),
    ({"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3}, [-3, -2, -1, 0, 1, 2, 3]),
    ({"type": "integer", "minimum": 1234}, [1233, 1234, 1299, 2000, 9999, 10000, 123, -1234]),
    ({"type": "integer", "maximum": 987}, [988, 987, 900, 1000, 99, 0, -1, -5000]),
    ({"type": "integer", "minimum": 2.5, "maximum": 7.5}, [2, 3, 7, 8]),
    ({"type": "integer", "minimum": 2, "exclusiveMinimum": 2}, [2, 3]),
    ({"type": "number"}, [0, -1, 1.5, 1e10, 1e-5, 12345.678, "1"]),
    ({"type": "number", "minimum": 0.5, "maximum": 2.25}, [0.4, 0.49, 0.5, 0.51, 1, 1.99, 2, 2.2, 2.25, 2.251, 2.3, 3, -1]),
    ({"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 1}, [-1.5, -1.49, -1, -0.1, 0, 0.99, 1, 1.1, -2]),
    ({"type": "number", "minimum": -0.25, "maximum": -0.125}, [-0.3, -0.25, -0.2, -0.125, -0.12, 0]),
    ({"type": "number", "exclusiveMinimum": 0}, [0, 0.001, 5, -1]),
    ({"type": "number", "exclusiveMaximum": 0}, [0, -0.001, -5, 1]),
    ({"type": "number", "minimum": 3.25, "maximum": 3.75}, [3.2, 3.25, 3.3, 3.5, 3.75, 3.76, 3, 4]),
    ({"enum": ["red", "green", 3, None, True, {"a": [1, 2]}, "q\"uote"]}, ["red", "blue", 3, 4, None, True, {"a": [1, 2]}, "q\"uote"]),
    ({"const": "only"}, ["only", "other"]),
    ({"type": "string", "enum": ["a", 1]}, ["a", 1]),
    ({"type": ["string", "null"]}, ["x", None, 1]),
    ({"type": ["integer", "boolean"], "minimum": 5}, [4, 5, True, "x"]),
    ({"type": "object"}, [{}, {"a": 1}, {"a": {"b": [None]}}, [], 1]),
    (PERSON, [{"name": "Ada", "age": 36}, {"name": "Ada", "age": 36, "email": "a@b.org"}, {"name": "", "age": 1}, {"age": 1},
              {"name": "x", "age": 121}, {"name": "x", "age": 1, "more": 2}]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}},
      "additionalProperties": False}, [{}, {"a": 1}, {"b": 1}, {"c": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}, {"d": 1}]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["b"],
      "additionalProperties": False}, [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}]),
    ({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "additionalProperties": {"type": "string"}},
     [{"id": 1}, {"id": 1, "x": "y"}, {"id": 1, "x": 2}, {"id": 1, "i": "a", "idx": "b", "": "c"}, {"x": "y"}]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}, {"a": "x"}]),
    ({"type": "object", "properties": {}}, [{}]),
    ({"type": "object", "required": ["k"]}, [{}, {"k": 1}, {"k": [], "l": 2}]),
    ({"type": "object", "properties": {"ключ": {"type": "boolean"}, "a\"b": {"type": "null"}}, "required": ["ключ", "a\"b"],
      "additionalProperties": False}, [{"ключ": True, "a\"b": None}, {"ключ": True}]),
    ({"type": "array"}, [[], [1], [1, "a", [None]], {}]),
    ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2], ["a"]]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
     [[], [True], [True, False], [True, True, True], [True, True, True, True]]),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 1}, [[], [None], [None, None]]),
    ({"type": "array", "maxItems": 0}, [[], [1]]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5]]),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "boolean"}, "minItems": 1},
     [[], ["a"], ["a", 1], ["a", 1, True, False], ["a", True], [1]]),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
     [["a"], ["a", 1], ["a", 1, True]]),
    ({"type": "array", "items": PERSON, "minItems": 1}, [[], [{"name": "A", "age": 1}], [{"name": "A", "age": 1}, {"name": "B", "age": 2}]]),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]}, [1, "ab", "abc", None]),
    ({"anyOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"],
                 "additionalProperties": False},
                {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "string"}}, "required": ["kind", "y"],
                 "additionalProperties": False}]},
     [{"kind": "a", "x": 1}, {"kind": "b", "y": ""}, {"kind": "a", "y": ""}, {"kind": "b", "x": 1}]),
    ({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, [True, None, 1]),
    ({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "boolean"}}}, [True, 1]),
    (TREE, [{"value": 1}, {"value": 1, "children": []}, {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]},
            {"children": []}, {"value": 1, "children": [{"children": []}]}]),
    (LINKED, [{"next": None}, {"next": {"next": {"next": None}}}, {}, {"next": {}}]),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer", "minimum": 3, "maximum": 3}}}, [3, 4]),
    ({"type": "object", "title": "T", "description": "d", "properties": {"when": {"type": "string", "format": "date-time"},
                                                                         "id": {"type": "string", "format": "uuid"}},
      "required": ["when", "id"], "additionalProperties": False},
     [{"when": "2026-11-21T20:00:00Z", "id": "123e4567-e89b-12d3-a456-426614174000"}, {"when": "yesterday", "id": "x"}]),
    ({"type": "string", "format": "date"}, ["2026-11-21", "2026-02-30", "2026-13-01", "26-1-1"]),
    ({"type": "string", "format": "time"}, ["12:00:00Z", "12:00:00.5+01:00", "25:00:00Z", "12:00"]),
    ({"type": "string", "format": "ipv4"}, ["1.2.3.4", "255.255.255.255", "256.1.1.1", "1.2.3"]),
    ({"type": "string", "format": "ipv6"}, ["1:2:3:4:5:6:7:8", "1:2:3"]),
    ({"type": "string", "format": "hostname"}, ["example.org", "-x"]),
    ({"type": "string", "format": "uri"}, ["https://example.org/a?b=c#d", "nonsense"]),
    ({"type": "string", "format": "duration"}, ["P1D", "PT5M", "P2W", "1D"]),
    ({"minimum": 3}, [3, 2]),
    ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}, {}]),
]
# What jsonschema has no way of saying.
NULLABLE = ({"type": "integer", "nullable": True}, ["1", "null", "\"a\""], [True, True, False])

WRONG = [
    ('{"type": "integer", "multipleOf": 3}', "#/multipleOf"),
    ('{"type": "object", "properties": {"age": {"type": "integer", "multipleOf": 3}}}', "#/properties/age/multipleOf"),
    ('{"type": "object", "patternProperties": {}}', "patternProperties"),
    ('{"type": "object", "minProperties": 1}', "minProperties"),
    ('{"not": {"type": "null"}}', "'not'"),
    ('{"if": {}, "then": {}}', "'if'"),
    ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
    ('{"type": "array", "contains": {}}', "contains"),
    ('{"allOf": [{"type": "string"}, {"minLength": 1}]}', "allOf"),
    ('{"anyOf": [{"type": "string"}], "minLength": 2}', "minLength"),
    ('{"$ref": "#/$defs/none"}', "leads nowhere"),
    ('{"$ref": "https://example.org/schema"}', "outside"),
    ('{"$ref": "#"}', "comes back to itself"),
    ('{"type": "string", "format": "color"}', "color"),
    ('{"type": "string", "pattern": "a(?=b)"}', "column 2"),
    ('{"type": "string", "pattern": "a", "minLength": 1}', "minLength"),
    ('{"type": "string", "minLength": 3, "maxLength": 2}', "minLength"),
    ('{"type": "string", "maxLength": 1e9}', "maxLength"),
    ('{"type": "integer", "minimum": 5, "maximum": 4}', "no integer"),
    ('{"type": "number", "minimum": 5, "exclusiveMaximum": 5}', "no number"),
    ('{"type": "widget"}', "#/type"),
    ('{"type": "object", "properties": {"a": 5}}', "#/properties/a"),
    ('{"type": "object", "properties": {}, "required": ["x"]}', "'x'"),
    ('{"enum": []}', "enum"),
    ('{"type": "string", "enum": [1]}', "enum"),
    ('{"type": "string", "type": "null"}', "twice"),
    ('{"type": "string"', "not JSON"),
    ('[]', "expected a schema"),
    ('false', "no text"),
    ('{"type":' * 100 + '1' + '}' * 100, "nested"),
    (json.dumps({"prefixItems": [{"type": "string", "minLength": n} for n in (7000, 8000, 9000)]}), "too large"),
]

# Expression; texts that `re.fullmatch` judges.
REGEXES = [
    (r"abc", ["abc", "ab", "abcd", ""]),
    (r"a|bc|", ["a", "bc", "", "b"]),
    (r"^(?:ab)+$", ["ab", "abab", "", "aba"]),
    (r"[a-cx-z]{2,3}", ["ab", "xyz", "a", "abcd", "md"]),
    (r"[^a-z\n]*", ["ABC", "", "aB", "\n"]),
    (r"\d{3}-\d{4}", ["123-4567", "12-4567"]),
    (r"\w+\s\w+", ["hello world", "hello", "a\tb"]),
    (r"(?P<year>\d{4})-(?<m>\d\d)", ["2026-11"]),
    (r"a.c", ["abc", "a\nc", "aéc", "ac"]),
    (r"[äöü]+é?", ["äö", "üé", "u"]),
    (r"a*?b+?c??", ["b", "aabbc", "ac"]),
    (r"\x41\u00e9\.\\\[\]", ["Aé.\\[]", "A"]),
    (r"[\w.+-]+@[\w-]+\.[a-z]{2,}", ["a.b+c@d-e.org", "a@b"]),
    (r"(a(b(c)?)?)?", ["", "a", "ab", "abc", "ac"]),
    (r"[\]\-\\]+", ["]-\\", "a"]),
    (r"\p{Lu}\p{L}*", ["Äbc", "abc"]),
    (r"(0|[1-9]\d*)(\.\d+)?", ["0", "10.5", "01", "1."]),
    (r"a{0}b", ["b", "ab"]),
    (r"\D\W", ["--", "a-", "1-", "aa"]),
]
NOT_IN_RE = {r"(?P<year>\d{4})-(?<m>\d\d)": r"(?P<year>\d{4})-(?P<m>\d\d)", r"\p{Lu}\p{L}*": r"[A-ZÄÖÜ]\w*"}
WRONG_REGEXES = [
    ("a(b", "column 2"), ("a)b", "column 2"), ("[a", "column 1"), ("*a", "column 1"), ("a**", "column 3"), ("a{3,2}", "smaller"),
    (r"(a)\1", "back"), (r"\bword", "boundaries"), ("(?=a)", "ahead"), ("(?i)a", "flags"), ("a^b", "column 2"), ("a$b", "column 2"),
    ("[z-a]", "range"), (r"\q", "\\q"), ("a{99999}", "at most"), ("(" * 300 + ")" * 300, "nested"), ("(a{5000}){5000}", "too large"),
    (r"[^\x00-\u{10FFFF}]", "no text"),
]

# Grammar; texts, and whether each is of it.
LISTS = 'root ::= "- " item ("\\n- " item)*  # a list\nitem ::= [^\\n]+\n'
ARITHMETIC = '''
root  ::= expr
expr  ::= term ( [-+] term )*   # left to right
term  ::= factor ([*/] factor)*
factor ::= number | "(" expr ")"
number ::= [0-9]+ ("." [0-9]{1,2})?
'''
JSON_GBNF = r'''
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
'''
GRAMMARS = [
    ('root ::= "yes" | "no"', {"yes": True, "no": True, "": False, "yesno": False}),
    (LISTS, {"- a": True, "- a\n- bé": True, "- ": False, "a": False, "- a\n": False}),
    (ARITHMETIC, {"1": True, "1+2*(3.5-4)/5": True, "1+": False, "(1": False, "1.234": False, "((((7))))": True}),
    (JSON_GBNF, {'{"a": [1, 2.5, {"b": null}], "c": "d\\n"}': True, "{}": True, "[]": False, '{"a":}': False}),
    ("root ::= 'it''s' | x\nx ::= 'a'{2,} 'b'{3} .?", {"its": True, "aabbb": True, "aaabbb!": True, "abbb": False}),
    ('root ::= greeting " " [A-Z] [a-z]*\ngreeting ::= "Hello"\n  | "Hi"\n', {"Hello World": True, "Hi Bob": True, "Hi bob": False}),
    ('root ::= "a" root "b" | ""', {"": True, "ab": True, "aaabbb": True, "aab": False}),
]
WRONG_GRAMMARS = [
    ("x ::= 'a'", "root"), ("root ::= y", "'y' is not defined"), ("root ::= 'a", "line 1"), ("root ::= root 'a' | 'a'", "left recursion"),
    ("root ::= 'a'\nroot ::= 'b'", "line 2"), ("root = 'a'", "::="), ("root ::= 'a' )", "line 1, column 14"), ("root ::= [a", "class"),
    ("root ::= 'a'**", "repeated"), ("root ::= 'a' root", "no text"), ("root ::= \"\\q\"", "backslash"), ("", "root"),
    ("root ::= " + "(" * 300 + ")" * 300, "nested"),
]

failures = 0


def fail(*words):
    global failures
    failures += 1
    print("FAIL", *words)


def ask(lines):
    run = subprocess.run([SAMPLE, MODEL], input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{SAMPLE} ended with {run.returncode}: {run.stderr[-2000:]}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def ways_to_write(value):
    """A JSON value as models write it. Names of properties are written without needless escapes."""
    plain = json.dumps(value, ensure_ascii=False)
    ways = [json.dumps(value, separators=(",", ":"), ensure_ascii=False), plain, json.dumps(value, indent=2, ensure_ascii=False),
            json.dumps(value, indent="\t", ensure_ascii=False)]
    return ways + ([] if "ключ" in plain else [json.dumps(value)])


def finished(samples):
    """Drawing at random may come to no end, such as the letters that a pattern ends with."""
    return [text for text in samples if not text.endswith("<no end>")]


def schemas():
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    lines, expected = [], []
    for number, (schema, values) in enumerate(SCHEMAS):
        if isinstance(schema, dict) and schema.get("format", "date") not in checker.checkers:
            print(f"the oracle cannot judge the format {schema['format']}: install jsonschema[format-nongpl]")
            continue
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        texts, right = [], []
        for value in values:
            valid = validator.is_valid(value)
            for text in ways_to_write(value):
                texts.append(text)
                right.append(valid)
        lines.append({"kind": "json_schema", "text": json.dumps(schema, ensure_ascii=False), "count": COUNT, "seed": number, "check": texts})
        expected.append((schema, validator, texts, right))
    for answer, (schema, validator, texts, right) in zip(ask(lines), expected, strict=True):
        if "error" in answer:
            fail("schema", schema, "refused:", answer["error"])
            continue
        for text in finished(answer["samples"]):
            try:
                validator.validate(json.loads(text))
            except (ValueError, jsonschema.ValidationError) as error:
                fail("schema", schema, "gave", repr(text), str(error).splitlines()[0])
        for text, got, want in zip(texts, answer["checks"], right, strict=True):
            if got != want:
                fail("schema", schema, "accepts" if got else "refuses", repr(text))
    schema, texts, right = NULLABLE
    got = ask([{"kind": "json_schema", "text": json.dumps(schema), "check": texts}])[0]
    if got.get("checks") != right:
        fail("nullable", got)


def objects():
    answer = ask([{"kind": "json_object", "count": 4 * COUNT, "check": ["{}", '{"a": {"b": [1, null]}}', "[]", "1", ""]}])[0]
    if answer["checks"] != [True, True, False, False, False]:
        fail("json_object", answer["checks"])
    for text in answer["samples"]:
        try:
            if not isinstance(json.loads(text), dict):
                fail("json_object gave", repr(text))
        except ValueError as error:
            fail("json_object gave", repr(text), error)


def regexes():
    lines = [{"kind": "regex", "text": pattern, "count": COUNT, "check": texts} for pattern, texts in REGEXES]
    for answer, (pattern, texts) in zip(ask(lines), REGEXES, strict=True):
        if "error" in answer:
            fail("regex", pattern, "refused:", answer["error"])
            continue
        oracle = re.compile(NOT_IN_RE.get(pattern, pattern))
        for text in finished(answer["samples"]):
            if pattern not in NOT_IN_RE and not oracle.fullmatch(text):
                fail("regex", pattern, "gave", repr(text))
        for text, got in zip(texts, answer["checks"], strict=True):
            if got != bool(oracle.fullmatch(text)):
                fail("regex", pattern, "accepts" if got else "refuses", repr(text))


def grammars():
    lines = [{"kind": "ebnf", "text": grammar, "count": COUNT, "check": list(texts)} for grammar, texts in GRAMMARS]
    for answer, (grammar, texts) in zip(ask(lines), GRAMMARS, strict=True):
        if "error" in answer:
            fail("grammar", grammar, "refused:", answer["error"])
        elif answer["checks"] != list(texts.values()):
            fail("grammar", grammar, dict(zip(texts, answer["checks"])))
        elif grammar == JSON_GBNF:
            for text in answer["samples"]:
                json.loads(text)


def choices():
    options = ["red", "redder", "été", "a \"b\"", ""]
    answer = ask([{"kind": "choice", "choices": options, "count": COUNT, "check": [*options, "re", "reddest"]}])[0]
    if answer["checks"] != [True] * 5 + [False] * 2 or not set(answer["samples"]) <= set(options):
        fail("choice", answer)
    for wrong in ([], ["a"] * 5000):
        if "error" not in ask([{"kind": "choice", "choices": wrong}])[0]:
            fail("choice of", len(wrong), "was not refused")


def refusals():
    for kind, cases in (("json_schema", WRONG), ("regex", WRONG_REGEXES), ("ebnf", WRONG_GRAMMARS)):
        answers = ask([{"kind": kind, "text": text} for text, _ in cases])
        for answer, (text, words) in zip(answers, cases, strict=True):
            if words not in answer.get("error", ""):
                fail(kind, repr(text[:80]), "expected an error with", repr(words), "got", repr(answer.get("error")))


for part in (schemas, objects, regexes, grammars, choices, refusals):
    part()
print(f"{len(SCHEMAS)} schemas, {len(REGEXES)} expressions, {len(GRAMMARS)} grammars: {failures} failures")
sys.exit(1 if failures else 0)
