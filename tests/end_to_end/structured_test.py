"""Structured output against a live head and a worker with the demo model: schemas at temperature 1 judged by jsonschema,
expressions, choices, grammars, the end of thinking, drafting, and what is refused.

STRUCTURED_RUNS is the number of sampled runs, 24 by default.
"""
import concurrent.futures
import json
import os
import re
import tempfile

import harness
import jsonschema
from harness import ROOT, Client, Head, api, error_details, grpc, paceline, paceline_json

DEMO_MODEL = ROOT / "deploy/demo-model"
RUNS = int(os.environ.get("STRUCTURED_RUNS", "24"))

SCHEMAS = [
    {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}, "min": {"type": "integer", "minimum": -40, "maximum": 50},
                                      "max": {"type": "integer", "minimum": -40, "maximum": 50}, "sky": {"enum": ["clear", "rain", "snow"]}},
     "required": ["city", "min", "max", "sky"], "additionalProperties": False},
    {"type": "object", "properties": {"customer": {"type": "string", "minLength": 1, "maxLength": 20},
                                      "items": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,12}$"}, "minItems": 1, "maxItems": 3}},
     "required": ["customer", "items"], "additionalProperties": False},
    {"$defs": {"node": {"type": "object", "properties": {"v": {"type": "number", "minimum": 0, "maximum": 1},
                                                        "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
                        "required": ["v"], "additionalProperties": False}}, "$ref": "#/$defs/node"},
    {"type": "array", "items": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}, {"const": "none"}]}, "maxItems": 3},
]
QUESTIONS = [
    "Write the following as JSON with the keys city, min, max, sky: The forecast for Prague: clear, low 5, high 22.",
    "Aaron bought screws and cups.\n\nReturn a JSON object with the keys customer, items.",
    "Give me a tree of numbers as JSON.",
    "List three dates as JSON.",
]


def turn(question, thinking=False):
    return (f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n" + ("" if thinking else "\n</think>\n\n"))


def constrained(text, max_tokens=400, temperature=1.0, drafts=None, stops=(), **constraint):
    made = harness.request(text=text, max_tokens=max_tokens, temperature=temperature, ignore_eos=False)
    made.sampling.top_k = 0
    made.sampling.top_p = 1.0
    made.stopping.stop_token_ids.extend(stops)
    choices = constraint.pop("choices", None)
    if choices is not None:
        made.constraint.choice.options.extend(choices)
    for name, value in constraint.items():
        setattr(made.constraint, name, value)
    if drafts is not None:
        made.speculation.mode = api.SpeculationOptions.MODE_FIXED if drafts else api.SpeculationOptions.MODE_OFF
        if drafts:
            made.speculation.max_draft_tokens = drafts
    return made


class Structured(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 1, model=DEMO_MODEL).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.api = Client(cls.head.grpc)
        cls.addClassCleanup(cls.api.close)

    def run_all(self, requests):
        """Their only outputs, eight at a time."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return [answer.outputs[0] for answer in pool.map(self.api.generate, requests)]

    def test_every_sampled_text_satisfies_its_schema(self):
        requests, schemas = [], []
        for run in range(RUNS):
            schema = SCHEMAS[run % len(SCHEMAS)]
            request = constrained(turn(QUESTIONS[run % len(SCHEMAS)]), json_schema=json.dumps(schema))
            request.sampling.seed = run
            requests.append(request)
            schemas.append(schema)
        for output, schema in zip(self.run_all(requests), schemas):
            self.assertEqual(output.reason, api.FINISH_REASON_STOP, output.text)
            jsonschema.Draft202012Validator(schema).validate(json.loads(output.text))

    def test_drafts_change_no_token(self):
        for seed in range(3):
            for temperature in (0.0, 1.0):
                requests = []
                for drafts in (0, 1, 3, 8):
                    request = constrained(turn(QUESTIONS[seed]), temperature=temperature, drafts=drafts, json_schema=json.dumps(SCHEMAS[seed]))
                    request.sampling.seed = seed
                    requests.append(request)
                texts = [[token.id for token in output.tokens] for output in self.run_all(requests)]
                for text in texts[1:]:
                    self.assertEqual(text, texts[0])

    def test_expressions_choices_and_grammars(self):
        grammar = 'root ::= "(" [a-z]{1,5} ("," [a-z]{1,5}){0,4} ")"'
        requests = [constrained(turn("When?"), regex=r"\d{4}-(0[1-9]|1[0-2])") for _ in range(4)]
        requests += [constrained(turn("Yes or no?"), choices=["yes", "no", "maybe"]) for _ in range(4)]
        requests += [constrained(turn("Words?"), ebnf=grammar) for _ in range(4)]
        requests += [constrained(turn("JSON?"), json_object=True, temperature=0.5) for _ in range(4)]
        outputs = self.run_all(requests)
        for output in outputs[:12]:
            self.assertEqual(output.reason, api.FINISH_REASON_STOP, output.text)
        for output in outputs[:4]:
            self.assertRegex(output.text, r"^\d{4}-(0[1-9]|1[0-2])$")
        for output in outputs[4:8]:
            self.assertIn(output.text, ("yes", "no", "maybe"))
        for output in outputs[8:12]:
            self.assertRegex(output.text, r"^\([a-z]{1,5}(,[a-z]{1,5}){0,4}\)$")
        for output in outputs[12:]:
            if output.reason == api.FINISH_REASON_STOP:
                self.assertIsInstance(json.loads(output.text), dict)

    def test_the_constraint_begins_behind_the_thinking(self):
        schema = json.dumps(SCHEMAS[0])
        for output in self.run_all([constrained(turn(QUESTIONS[0], thinking=True), temperature=0.6, json_schema=schema) for _ in range(4)]):
            self.assertEqual(output.reason, api.FINISH_REASON_STOP, output.text)
            thoughts, answer = output.text.split("</think>", 1)
            self.assertTrue(thoughts.strip())
            jsonschema.validate(json.loads(answer), SCHEMAS[0])
        # Said in so many words: at once, and behind a text of one's own.
        at_once = self.run_all([constrained(turn("?", thinking=True), after="", choices=["a", "b"])])[0]
        self.assertIn(at_once.text, ("a", "b"))
        behind = self.run_all([constrained("Numbers: 1", after="e", choices=["!"], max_tokens=300)])[0]
        if behind.reason == api.FINISH_REASON_STOP:
            self.assertRegex(behind.text, re.compile(r"^[^e]*e\n{0,2}!$", re.DOTALL))

    def test_what_is_refused_says_what_and_where(self):
        cases = [
            (dict(json_schema='{"type": "object", "properties": {"n": {"multipleOf": 3}}}'), "constraint.json_schema", "#/properties/n/multipleOf"),
            (dict(regex="(a"), "constraint.regex", "column 1"),
            (dict(ebnf="start ::= 'a'"), "constraint.ebnf", "root"),
            (dict(choices=[]), "constraint.choice", "options"),
        ]
        for constraint, field, words in cases:
            request = constrained("x", **constraint)
            if "choices" in constraint:
                request.constraint.choice.SetInParent()
            error = self.refused(lambda r=request: self.api.generate(r))
            self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
            info, fields = error_details(error)
            self.assertEqual(info.reason, "GRAMMAR_INVALID")
            self.assertIn(field, fields)
            self.assertIn(words, error.details())
        stopping = constrained("x", regex="a")
        stopping.stopping.stop_strings.append("b")
        self.assertIn("stopping.stop_strings", error_details(self.refused(lambda: self.api.generate(stopping)))[1])
        endless = constrained("x", regex="a")
        endless.stopping.ignore_eos = True
        self.assertIn("stopping.ignore_eos", error_details(self.refused(lambda: self.api.generate(endless)))[1])

    def test_command_line(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as schema, tempfile.NamedTemporaryFile("w", suffix=".gbnf") as grammar:
            json.dump(SCHEMAS[0], schema)
            schema.flush()
            grammar.write('root ::= "a" [0-9]{3}\n')
            grammar.flush()
            common = ["--prompt", turn(QUESTIONS[0]), "--max-tokens", 200, "--seed", 4, "--json"]
            here = paceline_json("generate", DEMO_MODEL, *common, "--json-schema", schema.name)
            there = paceline_json("generate", f"grpc://{self.head.grpc}", *common, "--json-schema", schema.name)
            self.assertEqual(here["token_ids"], there["token_ids"])
            jsonschema.validate(json.loads(here["text"]), SCHEMAS[0])
            self.assertRegex(paceline_json("generate", DEMO_MODEL, *common, "--grammar", grammar.name)["text"], r"^a\d{3}$")
            self.assertRegex(paceline_json("generate", DEMO_MODEL, *common, "--regex", "[xy]{4}")["text"], r"^[xy]{4}$")
            self.assertIn(paceline_json("generate", DEMO_MODEL, *common, "--choice", "left", "--choice", "right")["text"], ("left", "right"))
            status, _, err = paceline("generate", DEMO_MODEL, *common, "--regex", "a", "--choice", "b")
            self.assertEqual(status, 2)
            self.assertIn("--json-schema", err)


if __name__ == "__main__":
    harness.main()
