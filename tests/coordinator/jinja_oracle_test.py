#!/usr/bin/env python3
"""Compares our template interpreter with jinja2, set up as Transformers sets it up.

  jinja_oracle_test.py DUMP TEMPLATES MODEL [--random N] [--seed S]

DUMP is the jinja_dump binary, TEMPLATES a folder of *.jinja, MODEL a folder with a chat template. Everything but the
inputs of --random is fixed; those follow from the seed.
"""
import argparse
import datetime
import functools
import itertools
import json
import pathlib
import random
import subprocess
import sys
import warnings

try:
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
except ImportError:
    sys.exit("jinja_oracle_test.py: the package 'jinja2' is missing: make build/venv from tests/requirements.txt")

NOW = datetime.datetime(2026, 3, 4, 5, 6, 7)  # what jinja_dump shows, in UTC


class Generation(jinja2.ext.Extension):
    """{% generation %}: a scope of its own, nothing else."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


class Raised(Exception):
    pass


def environment():
    def raise_exception(message):
        raise Raised(str(message))

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return made


warnings.simplefilter("ignore", SyntaxWarning)  # of what random templates compile to
ENVIRONMENT = environment()
compiled = functools.lru_cache(maxsize=8)(ENVIRONMENT.from_string)


def expected(template, context):
    try:
        return {"text": compiled(template).render(**context)}
    except Raised as error:
        return {"error": str(error), "raised": True}
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, AssertionError, SyntaxError) as error:
        return {"error": f"{type(error).__name__}: {error}", "raised": False}


class Comparison:
    def __init__(self, dump):
        self.dump = dump
        self.count = self.rendered = self.uncovered = self.failed = 0

    def run(self, lines, *arguments):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        done = subprocess.run([self.dump, *arguments], input=text, capture_output=True, text=True, timeout=600, env={"TZ": "UTC"})
        answers = done.stdout.split("\n")[:-1]
        if done.returncode != 0 or len(answers) != len(lines):
            sys.exit(f"jinja_dump gave {len(answers)} answers to {len(lines)} lines and status {done.returncode}: {done.stderr[-2000:]}\n"
                     f"at {lines[min(len(answers), len(lines) - 1)]}")
        return [json.loads(answer) for answer in answers]

    def report(self, what, template, context, want, got):
        self.failed += 1
        if self.failed <= 20:
            print(f"--- {what}\n    template {template!r}\n    context  {json.dumps(context)[:600]}\n    jinja2   {want}\n    ours     {got}")

    def compare(self, what, cases, strict=True):
        """Cases are (template, context). Equal texts, equal words of raise_exception, and errors where jinja2 has errors."""
        for (template, context), got in zip(cases, self.run([{"template": t, "context": c} for t, c in cases])):
            want = expected(template, context)
            self.count += 1
            self.rendered += "text" in want
            if "text" in want:
                if not strict and ("not covered" in got.get("error", "") or "beyond 64 bits" in got.get("error", "")):
                    self.uncovered += 1
                elif got.get("text") != want["text"]:
                    self.report(what, template, context, want, got)
            elif "error" not in got or got["raised"] != want["raised"] or (want["raised"] and got["error"] != want["error"]):
                self.report(what, template, context, want, got)


# Conversations.

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place, \"now\" & <then>.",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Zürich, 東京 or 🌍"},
        "days": {"type": "integer", "minimum": 0, "default": 3},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}}, "nullable": True},
        "tags": {"type": "array", "items": {"type": "string"}}}}}}
NOTHING = {"type": "function", "function": {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, call_id="call00001", **extra):
    return {"role": "assistant", "content": extra.pop("content", None), **extra,
            "tool_calls": [{"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}]}


def conversations():
    user = {"role": "user", "content": "  What is 2 + 2?\n"}
    system = {"role": "system", "content": "You are terse. Ünïcode 🌍 \"quoted\" <tags> & 'single'."}
    answer = {"role": "assistant", "content": "Four.\n"}
    thought = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two\nmake four. "}
    inline = {"role": "assistant", "content": "<think>\nhm, 4\n</think>\n\nFour."}
    result = {"role": "tool", "content": "{\"temperature\": 12.5}", "tool_call_id": "call00001", "name": "get_weather"}
    parts = {"role": "user", "content": [{"type": "text", "text": "First part."}, {"type": "text", "text": " Second <|part|>"}]}
    two = {"role": "assistant", "content": "Let me look.", "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich\n\"old\" town", "days": 3, "where": {"lat": 47.4, "lon": None}, "tags": []}}},
        {"id": "call00002", "type": "function", "function": {"name": "ping", "arguments": {}}}]}
    chats = [
        [user], [system, user], [user, answer], [user, answer, user], [system, user, answer, user, answer, user],
        [user, thought, user], [user, inline, user], [user, thought], [parts], [system, parts, answer, user],
        [user, call("get_weather", {"city": "Bern"}), result], [user, call("get_weather", {"city": "Bern", "days": 0}, reasoning_content="I need it."), result, answer, user],
        [system, user, two, result, {**result, "content": "pong", "tool_call_id": "call00002", "name": "ping"}, answer, user],
        [user, call("ping", {}, content=""), {"role": "tool", "content": "", "tool_call_id": "call00001", "name": "ping"}],
        [user, call("get_weather", {"city": "A", "tags": ["x", "y\u2028z"], "where": {}}, content="Hm."), result, call("ping", {}), result],
        [user, two, result], [user, user], [answer], [user, system], [system], [{"role": "user", "content": ""}],
        [{"role": "user", "content": "</think> and <think>"}, {"role": "assistant", "content": "a</think>b</think>c"}, user],
        [{"role": "critic", "content": "?"}, user], [user, {"role": "assistant", "content": None}], [],
        [user, {"role": "assistant", "content": "", "tool_calls": []}, user],
    ]
    variables = [
        {}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": [WEATHER, NOTHING]},
        {"add_generation_prompt": False, "tools": [NOTHING]}, {"add_generation_prompt": True, "enable_thinking": False},
        {"add_generation_prompt": True, "enable_thinking": True, "preserve_thinking": True, "tools": []},
        {"add_generation_prompt": True, "reasoning_effort": "high", "tools": [WEATHER], "thinking": True},
        {"add_generation_prompt": True, "tools": None, "bos_token": "<s>", "eos_token": "</s>", "model_identity": "You are a test."},
    ]
    for chat, extra in itertools.product(chats, variables):
        yield {"bos_token": "<bos>", "eos_token": "<eos>", "tools": None, "documents": None, "add_generation_prompt": False, "messages": chat, **extra}


# Small templates, one feature each.

CONTEXT = {"s": "Hello, Wörld! ", "t": "a,b,,c", "n": 7, "z": 0, "f": 2.5, "neg": -3, "yes": True, "no": False, "none_value": None, "empty": [],
           "list": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"], "d": {"b": 1, "a": [1, {"x": "y"}], "items": "trap", "k l": None},
           "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25}, {"name": "Cid", "age": 30, "tags": []}],
           "multi": "line one\n  line two\n\nline four\n", "e": "", "quotes": "it's \"quoted\"", "ctl": "tab\tnl\n\x07é\u200b\U0001f600", "big": 123456789012}

SNIPPETS = r"""
{{ s }}|{{ n }}|{{ f }}|{{ yes }}|{{ none_value }}|{{ list }}|{{ d }}|{{ missing }}|{{ people }}
{{ 1.0 }} {{ 1e20 }} {{ 1e16 }} {{ 123456789.123 }} {{ 1e-5 }} {{ 0.0001 }} {{ -0.0 }} {{ 1/3 }} {{ 2**0.5 }} {{ 10**15 }} {{ 1e22 }} {{ 5e-324 }} {{ 1.5e300 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ 7 / 2 }} {{ -n }} {{ +n }} {{ - -n }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 + [2] }} {{ (1,) + (2, 3) }} {{ 'a' 'b' "c" }}
{{ true + 1 }} {{ true and 0 or 'x' }} {{ not yes }} {{ no or none_value }} {{ none_value and 1 }} {{ '' or 'b' }} {{ 1 and 2 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 2) == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ none == none }}
{{ 1 in list }} {{ 'pear' in words }} {{ 'ell' in s }} {{ 'b' in d }} {{ 9 not in list }} {{ not 1 in list }} {{ 'x' in missing }} {{ '' in 'abc' }}
{{ s[0] }} {{ s[-1] }} {{ s[8] }} {{ s[7:9] }} {{ s[::-1] }} {{ s[::2] }} {{ s[100] }}| {{ list[-1] }} {{ list[::-1] }} {{ list[1:] }} {{ list[:-1] }} {{ list[5:] }} {{ list[9] }}| {{ list[-5:2] }} {{ list[2:0:-1] }}
{{ d.b }} {{ d['b'] }} {{ d['items'] }} {{ d.missing }}| {{ d['k l'] }} {{ d.a[1].x }} {{ d.a.1.x }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d.keys()|list }} {{ d.values()|list }}
{{ d.items() }} {{ d.keys() }} {{ d.values()|list|length }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }},{% endfor %}{% for c in 'añb' %}{{ c }}.{% endfor %}{% for x in missing %}no{% else %}none{% endfor %}
{% for x in list %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.depth }} {% endfor %}
{% for x in list if x > 1 %}{{ x }}{{ loop.index }}{% else %}none{% endfor %} {% for x in list if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}
{% for a in [1, 2] %}{% for b in [3, 4] %}{% if b == 4 %}{% break %}{% endif %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in [1, [2, [3]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}d{{ loop.depth }}{% endif %}{% endfor %}
{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% set x = 1 %}{% for i in list %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if yes %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b=[]) %}{% for i in list %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}|{{ ns['a'] }}{{ ns }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, %}{{ c }}{% set e %}in {{ n }}{% endset %}[{{ e }}]{% set g | upper | trim %} x {% endset %}[{{ g }}]
{% macro m(a, b=2, c='x' ~ b) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m(1, 2, 3, 4, k=5) }} {{ m() }} {{ m }}
{% macro outer(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) outer(5) %}got {{ y }}{{ n }}{% endcall %}{% macro f(k) %}{% if k %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro late() %}{{ v }}{% endmacro %}{{ late() }}|{% set v = 5 %}{{ late() }}{% for q in [1] %}{% macro inner() %}{{ q }}{{ v }}{% endmacro %}{{ inner() }}{% endfor %}
{% macro bad(a) %}{{ a }}{% endmacro %}{{ bad(1, 2) }}
{% macro bad(a) %}{{ a }}{% endmacro %}{{ bad(b=2) }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set a = 3 %}{{ a }}{% endwith %}{{ a }}{% filter upper %}abc {{ s }}{% endfilter %}
{% generation %}x{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}{% raw %}{{ raw }}{% x %}{% endraw %}{# comment {{ n }} #}{{ '{{' }}{{ '%}' }}
{{ 'x' if yes }} {{ 'x' if no }}| {{ 'x' if no else 'y' if no else 'z' }} {{ ('x' if no) is defined }} {{ 1 if 2 else 3 }}
{{ n is defined }} {{ missing is defined }} {{ missing is undefined }} {{ none_value is none }} {{ n is number }} {{ yes is number }} {{ yes is boolean }} {{ n is integer }} {{ f is float }} {{ s is string }} {{ d is mapping }} {{ list is mapping }}
{{ list is sequence }} {{ d is sequence }} {{ s is sequence }} {{ n is sequence }} {{ missing is sequence }} {{ list is iterable }} {{ n is iterable }} {{ d.items() is sequence }} {{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }}
{{ n is eq 7 }} {{ n is equalto(8) }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt 3 }} {{ n is ge(7) }} {{ n is le 6 }} {{ n is in [7] }} {{ n is not in [7] }} {{ n is not none }} {{ yes is true }} {{ n is true }} {{ no is false }} {{ z is false }} {{ n is sameas n }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'x' is callable }} {{ range is callable }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ s is escaped }} {{ s|safe is escaped }} {{ n is string or n is number }}
{{ s|upper }}{{ s|lower }}{{ s|trim }}|{{ s|length }} {{ words|first }} {{ words|last }} {{ words|join(', ') }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ words|sort(reverse=true) }} {{ words|unique|list }} {{ words|reverse|list }} {{ s|reverse }}
{{ 'hello wORLD-foo (bar)'|title }} {{ 'hELLO wORLD'|capitalize }} {{ 'straße'|upper }} {{ 'ÀÉ'|lower }} {{ 'a b'.title() }} {{ "they're"|title }} {{ "they're".title() }} {{ 'ǆ'.title() }} {{ 'ὈΔΥΣΣΕΎΣ'.lower() }} {{ 'ß'.casefold() }}
{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 'aaa'|replace('a', '') }} {{ 'ab'|replace('', '-') }} {{ n|replace(7, 8) }} {{ 'abab'.replace('ab', 'x', 1) }} {{ 'ab'.replace('', '-', 2) }}
{{ missing|default('x') }} {{ none_value|default('x') }} {{ none_value|default('x', true) }} {{ e|d('y', boolean=true) }} {{ missing|default }}| {{ n|default(1) }} {{ missing.x|default(1) }}
{{ list|tojson }} {{ d|tojson }} {{ s|tojson }} {{ none_value|tojson }} {{ f|tojson }} {{ yes|tojson }} {{ ctl|tojson }} {{ quotes|tojson }} {{ (1, 'a')|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 6}|tojson }} {{ 1e16|tojson }} {{ '<>&'|tojson }} {{ [] | tojson }} {{ {} | tojson(indent=2) }}
{{ d|tojson(indent=2) }}
{{ d|tojson(ensure_ascii=true, sort_keys=true) }} {{ ctl|tojson(ensure_ascii=true) }} {{ list|tojson(separators=(',', ':')) }} {{ d|tojson(indent=1, separators=(', ', ' = ')) }} {{ people|tojson(indent='\t') }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true) }}
{{ missing|tojson }}
{{ list|map('string')|join('-') }} {{ people|map(attribute='name')|list }} {{ people|map(attribute='tags', default='none')|list }} {{ words|map('upper')|list }} {{ words|map('replace', 'p', 'q')|list }} {{ people|map(attribute='tags.0')|list }}
{{ people|selectattr('age', 'equalto', 30)|map(attribute='name')|join }} {{ people|rejectattr('tags')|list|length }} {{ people|selectattr('tags', 'defined')|list|length }} {{ list|select('gt', 1)|list }} {{ list|reject('odd')|list }} {{ [0, 1, '', 'x', none]|select|list }} {{ list|select('in', [1, 2])|list }}
{{ people|groupby('age')|map(attribute='grouper')|list }} {% for age, group in people|groupby('age') %}{{ age }}:{{ group|map(attribute='name')|join(',') }} {% endfor %}{{ people|sort(attribute='name')|map(attribute='name')|list }} {{ people|sort(attribute='age,name')|map(attribute='name')|list }}
{{ list|sum }} {{ people|sum(attribute='age') }} {{ list|sum(start=10) }} {{ list|min }} {{ list|max }} {{ words|max }} {{ people|max(attribute='age') }} {{ []|max }}| {{ []|first }}| {{ list|batch(2)|list }} {{ list|batch(2, 0)|list }} {{ list|slice(2)|list }} {{ list|slice(2, 'x')|list }}
{{ d|dictsort }} {{ d|items|list }} {{ {'b': 2, 'A': 3}|dictsort(true) }} {{ {'b': 2, 'A': 3}|dictsort(by='value', reverse=true) }} {{ missing|items|list }} {{ d|length }} {{ d|list }} {{ d|first }} {{ d|join(' ') }}
{{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 4.9|int }} {{ '0x1f'|int(base=16) }} {{ '1_000'|int }} {{ ' 12 '|int }} {{ none_value|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '1e3'|float }} {{ yes|int }} {{ '101'|int(0, 2) }} {{ '0b11'|int(base=0) }}
{{ 42.55|round }} {{ 42.55|round(1) }} {{ 2.5|round }} {{ 3.5|round|int }} {{ 42.55|round(1, 'floor') }} {{ 42.51|round(method='ceil') }} {{ 7|round }} {{ -5|abs }} {{ 0.125|round(2) }} {{ 2.675|round(2) }} {{ -2.5|abs }}
{{ multi|indent }}|{{ multi|indent(2, true) }}|{{ multi|indent(2, blank=true) }}|{{ multi|indent('> ', first=true) }}|{{ 'a'|indent }}
{{ 'foo bar baz qux'|truncate(9) }} {{ 'foo bar baz qux'|truncate(9, true) }} {{ 'foo bar baz qux'|truncate(11) }} {{ 'foo bar baz qux'|truncate(11, false, '..', 0) }} {{ 'a b c'|wordcount }} {{ 'abc'|center(9) }}| {{ 'abcd'.center(9, '*') }}
{{ t.split(',') }} {{ ' a  b '.split() }} {{ t.split(',', 1) }} {{ t.rsplit(',', 1) }} {{ 'a  b c'.split(' ') }} {{ 'a b c'.split(none, 1) }} {{ 'a b c'.rsplit(maxsplit=1) }} {{ multi.splitlines() }} {{ multi.split('\n') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a</think>b'.split('</think>')[-1] }}
{{ s.strip() }}|{{ '  x '.lstrip() }}|{{ ' x  '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ '\n\n a \n'.lstrip('\n') }}|{{ 'éaé'.strip('é') }}|{{ ' a '.strip(none) }}
{{ s.startswith('Hell') }} {{ s.endswith('! ') }} {{ s.startswith(('x', 'H')) }} {{ s.find('l') }} {{ s.find('ö') }} {{ s.rfind('l') }} {{ s.find('q') }} {{ s.index('W') }} {{ s.count('l') }} {{ s.find('l', 4) }} {{ s.find('l', -5, -1) }} {{ s.startswith('W', 7) }}
{{ s.upper() }} {{ s.lower() }} {{ s.capitalize() }} {{ s.swapcase() }} {{ 'ab'.join(['1', '2', '3']) }} {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('x') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'ab'.ljust(4, '.') }} {{ 'ab'.rjust(4) }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ ''.isspace() }} {{ 'Ab'.isupper() }} {{ 'ab1'.islower() }} {{ '½'.isnumeric() }} {{ '²'.isdigit() }} {{ '٣'.isdecimal() }} {{ 'foobar'.removeprefix('foo') }} {{ 'foobar'.removesuffix('bar') }} {{ 'é'.isascii() }}
{{ list.index(1) }} {{ list.count(1) }} {{ (1, 2).index(2) }} {{ list.copy() }} {{ d.copy() == d }}
{{ list.append(4) }}
{{ d.update({'a': 1}) }}
{{ d.pop }}|{{ list.append }}|{{ d.items is callable }}
{{ ''.__class__ }}|{{ d.__class__ }}|{{ s._x }}
{{ '%s is %d and %.2f %5s|%-5s|%05d %% %r %x' % ('a', 3, 1.005, 'b', 'c', 42, 'q', 255) }} {{ '%s' % 'x' }} {{ '%(a)s %(b)d' % {'a': 1, 'b': 2} }} {{ '%s,%s'|format(1, 'b') }} {{ '%(x)s'|format(x=2) }} {{ '%.3s|%+d|%e|%g' % ('abcdef', 5, 12345.678, 0.0001) }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a}-{b.name}'.format(a=1, b=people[0]) }} {{ '{{}}'.format() }} {{ '{!r}'.format('q') }} {{ '{0[name]}'.format(people[0]) }}
{{ '%d' % 'x' }}
{{ '%s %s' % ('a',) }}
{{ '%s' % ('a', 'b') }}
{{ range(3) }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(3)[1] }} {{ range(10)[2:5]|list }} {{ 2 in range(3) }} {{ range(0)|list }} {{ range(3)|length }} {{ range(1, 10, 3) }} {{ range(4)[0:-1:-2] }} {{ range(9)[::100] }} {{ range(9, 0, -1)[2:] }} {{ "abc"[::-9223372036854775807] }} {{ [1, 2][9223372036854775807:] }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'y': 2}, z=3) }} {{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y', true: 'z'} }} {% set j = joiner('; ') %}{{ j() }}a{{ j() }}b {% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{{ strftime_now('%Y-%m-%d %H:%M') }} {{ strftime_now('%d %b %Y') }} {{ strftime_now("") }}
{{ raise_exception('No ' ~ n ~ ' "quoted" way') }}
{% if list %}a{% elif d %}b{% else %}c{% endif %}{% if empty %}a{% elif none_value %}b{% else %}c{% endif %}{% if no %}a{% elif yes %}b{% endif %}{% if 1, %}t{% endif %}
{{ quotes }} {{ [quotes, 'a\nb', "it's", '"', '\\', '\x00', 'é', '\u200b', '\U0001F600', '\x7f'] }} {{ ctl }} {{ [ctl] }} {{ {'k': (1,)} }} {{ [none, true, 1.0] }} {{ () }} {{ [] }} {{ {} }}
{{ '\t\x41\u00e9\U0001F600\101\'\"\\\q' }} {{ "a\
b" }} {{ 'tab	x' }}
{{ s|safe + '<b>' }} {{ '<a>'|safe ~ '<b>' }} {{ '<a>'|e }} {{ '<a>'|safe|e }} {{ '<a&"\'>'|escape }} {{ ['<a>'|safe] }} {{ ('<i>'|safe).upper() + '<' }} {{ '<'|forceescape }} {{ ('<a>'|safe) * 2 + '>' }} {{ '%s' % '<a>'|safe }}
{{ 'a b&c/d?é'|urlencode }} {{ people[0]|attr('name') }}| {{ s|attr('upper') is callable }} {{ list|string }} {{ n|string + 'x' }} {{ 5|string|length }} {{ 'abc'|list }} {{ d|list|join }}
{{ n + 'x' }}
{{ 'x' + n }}
{{ missing + 1 }}
{{ missing.x }}
{{ missing() }}
{{ n() }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ none_value|length }}
{{ 5|length }}
{{ none_value.x }}| {{ none_value['x'] }}| {{ n.foo }}| {{ n[0] }}|
{{ none_value[1:] }}
{{ [1, 'a']|sort }}
{{ 1 < 'a' }}
{{ {[1]: 2} }}
{{ [1] in d.keys() }}
{{ ''.count('', 1) }}{{ 'ab'.count('', 2) }}{{ 'ab'.startswith('', 3) }}{{ 'ab'.endswith('', 5, 7) }} {{ -0.5|round(0, 'ceil') }}
{{ 5 in 5 }}
{{ x for x in y }}
{% for x in 5 %}{% endfor %}
{% for x in none_value %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% set n.x = 1 %}
{% if %}{% endif %}
{% endif %}
{% if yes %}
{% unknown %}
{% for x in list %}
{{ n
{{ 'abc }}
{{ n }
{{ (1 }}
{# never closed
{% raw %} never
{{ s|nope }}
{{ s is nope }}
{% break %}
{{ range(1000000) }}
{{ a.b.c }}
{{ f(x=1, 2) }}
{% macro m(a=1, b) %}{% endmacro %}
{% set true = 1 %}
{{ 1_000 + 0x1F + 0b11 + 0o17 }} {{ 1_0.5 }} {{ 1.e }}
{{ n.__init__ }}|{{ s.format.__globals__ }}
{{ [1, 2, 3] | map('multiply') | list }}
{{ loop }}|{{ caller }}|{{ varargs }}
{% for x in list %}{{ loop }}{% endfor %}
{% set list2 = [] %}{% for x in list %}{% set list2 = list2 + [x] %}{% endfor %}{{ list2 }}
{% set messages = list %}{{ messages }}{% set s = s.strip() %}{{ s }}{% for s in [1] %}{{ s }}{% endfor %}{{ s }}
{{ words|map('length')|list }} {{ words|map('first')|join }} {{ {'a': {'b': {'c': 1}}}.a.b.c }} {{ [[1, 2], [3]]|map('sum')|list }} {{ [[3, 1], [2]]|map('sort')|map('join', '-')|list }}
{% for g in [1, 2, 3]|map('string') %}{{ loop.last }}{{ g }}{% endfor %} {% set g = words|map('upper') %}{{ g|first }}{{ g|list }}{{ g|list }} {{ 'PEAR' in words|map('upper') }} {{ words|map('upper') is iterable }} {{ (words|select('nope') if no) is defined }}
{{ not missing }} {{ missing == missing2 }} {{ missing != 1 }} {{ missing is none }} {{ missing ~ 'x' }} {{ [missing] }} {{ missing|list }} {{ missing|length }} {{ missing|join }} {{ missing|upper }}|
{{ d is defined and d.b is defined and d.b > 0 }} {{ d.b is defined if d is defined else 'no' }} {{ (d.c is defined) or (d.b == 1) }} {{ yes is sameas true }} {{ 'a' is in 'abc' }} {{ 3 is not divisibleby 2 }}
{{ 'a' ~ 1 ~ 2.0 ~ none ~ true ~ [1] }} {{ 1 ~ 2 + 3 ~ 4 }} {{ -1 ~ 'x' }} {{ 'x' ~ -1|abs }} {{ -5|abs }} {{ 2 * 'a'|upper }} {{ 'b' if 1 == 1 and not 2 == 3 else 'c' }}
{{ big * 1000 }} {{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }} {{ 2 ** 62 }} {{ 7 // -2 }} {{ -(2 ** 3) }} {{ 5.0 // 0.3 }} {{ 1e308 * 10 }} {{ 0.1 + 0.2 }} {{ 100 * 1.1 }} {{ 3.0 * 2 }} {{ 6 / 3 }} {{ 1e3 }}
{{ "a" in ["a"] and "b" not in ["a"] }} {{ 1 in {1: 2} }} {{ 1.0 in [1] }} {{ (1, 2) in [(1, 2)] }} {{ {'a': 1} in [{'a': 1}] }} {{ 'k' in {'k': none} }} {{ d.keys()|sort }} {{ 'b' in d.keys() }} {{ d.items()|list|length }}
"""

LAYOUTS = ["  {% if yes %}\n  a\n  {% endif %}\nb\n", "{% if yes -%}\n  a  \n{%- endif %}\n\n b", "a {{- n -}} b\n  {#- c -#}  d\n {# e #}\nf", "x\n  {%+ if yes %}y{% endif +%}\nz",
           "{%- for x in list %}\n    {{- x }}\n{%- endfor %}\n\n", "  {% raw %}\n  {{ a }}\n  {% endraw %}\n b", "{% raw -%}  a {%- endraw %}  b", "a\r\nb\rc\n\n", "{% set x %}\n a\n{% endset %}\n[{{ x }}]\n\n\n",
           "{{ n }}\n{{ n }}\n  {{ n }}  \n", "\t{% set a = 1 %}\t\n{{ a }}", "{% if yes %}{% if yes %}\n\n{% endif %}\n{% endif %}\n", "a{# x #}\nb{#- y -#}\nc {#+ z +#}\nd", "{{ '}}' }}{{ {'a': {'b': 1}}}}",
           "{%- if no -%} a {%- else -%} b {%- endif -%} c", "{%if yes%}a{%endif%}", "{{n}}{%-set q=1-%}{{-q-}} x", "{{ n }}}", "{ { n } } {% raw %}{% endraw %}", "#{{ n }}#{ {# #} }", "\u00a0{% if yes %}\u00a0x{% endif %}\u2003\n {%- if yes %}y{% endif %}",
           "{% for x in list -%}\n {{ x }}\n{% else -%}\n e\n{% endfor -%}\n  end", "{% macro m() -%}\n  a\n{%- endmacro %}\n{{ m() }}\n", "\n\n{% if yes %}\n\nx\n\n{% endif %}\n\n", "   {{ n }}   {% if yes %}   {% endif %}   "]


# Random expressions: a grammar with types, so that most of them mean something.

class Expressions:
    def __init__(self, rng):
        self.rng = rng

    def pick(self, *options):
        return self.rng.choice(options)

    def any(self, depth):
        return self.pick(self.text, self.integer, self.number, self.boolean, self.sequence, self.mapping, self.anything)(depth)

    def anything(self, depth):
        if depth <= 0:
            return self.pick("missing", "none_value", "none", "d.a", "people[0]", "d.missing", "words", "s", "n", "f", "(1, 'a')", "people")
        make = self.rng.randrange(9)
        if make == 0:
            return f"({self.any(depth - 1)} if {self.boolean(depth - 1)} else {self.any(depth - 1)})"
        if make == 1:
            return f"({self.any(depth - 1)} {self.pick('and', 'or')} {self.any(depth - 1)})"
        if make == 2:
            return f"{self.sequence(depth - 1)}[{self.integer(depth - 2)}]"
        if make == 3:
            return f"{self.mapping(depth - 1)}[{self.text(0)}]"
        if make == 4:
            return f"({self.any(depth - 1)})|default({self.any(depth - 2)}{self.pick('', ', true')})"
        if make == 5:
            return f"({self.sequence(depth - 1)})|{self.pick('first', 'last', 'min', 'max', 'sum')}"
        if make == 6:
            return f"{self.mapping(depth - 1)}.get({self.text(0)}{self.pick('', ', 5', ', none')})"
        if make == 7:
            return f"({self.any(depth - 1)} {self.pick('+', '*', '%', '-', '//', '/')} {self.any(depth - 1)})"
        return f"({self.text(depth - 1)}).{self.pick('split', 'strip', 'upper', 'nope', 'title', 'splitlines', 'isalpha', 'isupper')}()"

    def text(self, depth):
        if depth <= 0:
            return self.pick("'abc'", "s", "t", "e", "multi", "quotes", "ctl", "'ÄÖü ß'", "'  pad\\n'", "''", "'a'", "\"it's\"", "'name'", "'b'", "words[0]", "'-5'", "'1.25e2'")
        sub = lambda: self.text(depth - 1)
        make = self.rng.randrange(16)
        if make == 0:
            return f"({sub()} ~ {self.any(depth - 1)})"
        if make == 1:
            return f"({sub()} + {sub()})"
        if make == 2:
            return f"({sub()})|{self.pick('upper', 'lower', 'trim', 'title', 'capitalize', 'string', 'reverse', 'indent', 'e', 'length', 'wordcount', 'urlencode', 'int', 'float', 'list')}"
        if make == 3:
            return f"({sub()}).{self.pick('strip', 'lstrip', 'rstrip', 'upper', 'lower', 'title', 'capitalize', 'swapcase', 'casefold')}()"
        if make == 4:
            return f"({sub()})[{self.integer(0)}:{self.integer(0)}{self.pick('', '', ':-1', ':2')}]"
        if make == 5:
            return f"({sub()}).replace({self.text(0)}, {self.text(0)}{self.pick('', ', 1')})"
        if make == 6:
            return f"({self.any(depth - 1)})|tojson{self.pick('', '(indent=2)', '(sort_keys=true)', '(ensure_ascii=true)')}"
        if make == 7:
            return f"({self.sequence(depth - 1)})|join({self.text(0)})"
        if make == 8:
            return f"({sub()}).{self.pick('strip', 'lstrip', 'rstrip')}({self.text(0)})"
        if make == 9:
            return f"({sub()})|replace({self.text(0)}, {self.text(0)})"
        if make == 10:
            return f"({self.any(depth - 1)})|string"
        if make == 11:
            return f"({sub()} * {self.integer(0)})"
        if make == 12:
            return f"('%s|%5s|%r' % ({self.any(depth - 1)}, {self.integer(0)}, {self.any(depth - 1)}))"
        if make == 13:
            return f"({sub()})|{self.pick('center(12)', 'truncate(5, true)', 'truncate(6)', 'indent(2, true)', 'trim(' + self.text(0) + ')')}"
        if make == 14:
            return f"({sub()}).{self.pick('partition', 'rpartition', 'split', 'rsplit')}({self.text(0)})[{self.pick('0', '-1')}]"
        return f"({sub()}).{self.pick('ljust', 'rjust', 'center', 'zfill')}({self.pick('3', '9', '12')})"

    def integer(self, depth):
        if depth <= 0:
            return self.pick("0", "1", "2", "3", "-1", "-2", "7", "10", "n", "z", "neg", "list[0]", "100")
        sub = lambda: self.integer(depth - 1)
        make = self.rng.randrange(7)
        if make == 0:
            return f"({sub()} {self.pick('+', '-', '*', '//', '%', '//', '%')} {sub()})"
        if make == 1:
            return f"({self.pick(self.text, self.sequence)(depth - 1)})|{self.pick('length', 'count')}"
        if make == 2:
            return f"({self.any(depth - 1)})|int({self.integer(0)})"
        if make == 3:
            return f"-{sub()}"
        if make == 4:
            return f"({self.text(depth - 1)}).{self.pick('find', 'rfind', 'count')}({self.text(0)}{self.pick('', ', 1', ', -3', ', 1, 4')})"
        if make == 5:
            return f"({sub()} ** {self.pick('0', '1', '2', '3')})"
        return f"({sub()})|abs"

    def number(self, depth):
        if depth <= 0:
            return self.pick("f", "0.5", "2.0", "1e3", "-1.25", "3.14159", "1e-7", "123456.789")
        make = self.rng.randrange(4)
        if make == 0:
            return f"({self.number(depth - 1)} {self.pick('+', '-', '*', '/', '//', '%')} {self.pick(self.number, self.integer)(depth - 1)})"
        if make == 1:
            return f"({self.integer(depth - 1)} / {self.integer(depth - 1)})"
        if make == 2:
            digits = self.pick("", "1", "2", "0, 'floor'", "1, 'ceil'")
            return f"({self.number(depth - 1)})|round({digits})"
        return f"({self.any(depth - 1)})|float"

    def boolean(self, depth):
        if depth <= 0:
            return self.pick("true", "false", "yes", "no", "missing is defined", "n is defined")
        make = self.rng.randrange(8)
        if make == 0:
            return f"({self.any(depth - 1)} {self.pick('==', '!=')} {self.any(depth - 1)})"
        if make == 1:
            kind = self.pick(self.integer, self.number, self.text, self.sequence)
            return f"({kind(depth - 1)} {self.pick('<', '<=', '>', '>=')} {kind(depth - 1)})"
        if make == 2:
            return f"({self.any(depth - 1)} {self.pick('in', 'not in')} {self.pick(self.sequence, self.mapping, self.text)(depth - 1)})"
        if make == 3:
            return (f"({self.any(depth - 1)} is {self.pick('', 'not ')}"
                    f"{self.pick('defined', 'none', 'string', 'mapping', 'sequence', 'iterable', 'number', 'boolean', 'true', 'false', 'integer', 'float', 'undefined', 'lower', 'upper', 'callable')})")
        if make == 4:
            return f"(not {self.any(depth - 1)})"
        if make == 5:
            return f"({self.text(depth - 1)}).{self.pick('startswith', 'endswith')}({self.text(0)})"
        if make == 6:
            return f"({self.integer(depth - 1)} {self.pick('<', '<=')} {self.integer(0)} {self.pick('<', '==', '!=')} {self.integer(0)})"
        return f"({self.integer(depth - 1)} is {self.pick('odd', 'even', 'divisibleby 3', 'gt 2', 'le(5)', 'in [1, 2, 7]')})"

    def sequence(self, depth):
        if depth <= 0:
            return self.pick("list", "words", "empty", "people", "[1, 'a', none]", "(1, 2)", "range(4)", "d.keys()", "'abc'", "[[1, 2], [3]]")
        make = self.rng.randrange(9)
        if make == 0:
            return f"[{', '.join(self.any(depth - 1) for _ in range(self.rng.randrange(4)))}]"
        if make == 1:
            return f"({self.text(depth - 1)}).split({self.pick('', self.text(0), self.text(0) + ', 1', 'none, 1')})"
        if make == 2:
            how = self.pick("sort", "unique|list", "reverse|list", "list", "sort(reverse=true)", "map('string')|list", "select|list", "batch(2)|list",
                            "slice(2)|list", "reject('none')|list")
            return f"({self.sequence(depth - 1)})|{how}"
        if make == 3:
            return f"({self.sequence(depth - 1)})[{self.pick('', self.integer(0))}:{self.pick('', self.integer(0))}{self.pick('', ':-1', ':2', ':-2')}]"
        if make == 4:
            return f"({self.sequence(depth - 1)} + {self.sequence(depth - 1)})"
        if make == 5:
            return f"({self.mapping(depth - 1)}){self.pick('.items()', '|items', '.values()', '.keys()', '|dictsort')}|list"
        if make == 6:
            return f"people|{self.pick('map(attribute=%r)', 'selectattr(%r)', 'rejectattr(%r)', 'selectattr(%r, %r)', 'sort(attribute=%r)')}|list" \
                .replace("%r", f"'{self.pick('name', 'age', 'tags')}'", 1).replace("%r", f"'{self.pick('defined', 'string', 'none')}'")
        if make == 7:
            return f"({self.sequence(depth - 1)} * {self.pick('0', '1', '2')})"
        return f"({self.text(depth - 1)}).splitlines()"

    def mapping(self, depth):
        if depth <= 0:
            return self.pick("d", "people[1]", "{}", "{'a': 1, 'b': none}", "dict(x=1)", "{1: 'x', true: 'y'}")
        pairs = ", ".join(f"{self.pick(self.text, self.integer)(0)}: {self.any(depth - 1)}" for _ in range(self.rng.randrange(4)))
        return "{" + pairs + "}"


def random_templates(rng, count):
    expressions = Expressions(rng)
    for _ in range(count):
        if rng.random() < 0.8:
            yield "{{ " + expressions.any(rng.randrange(1, 5)) + " }}"
            continue
        # Tags and white space in any order, blocks closed.
        parts, open_blocks = [], []
        for _ in range(rng.randrange(3, 14)):
            space = rng.choice(["", " ", "\n", "  \n", "\n  ", "x", " y ", "\n\n", "\t"])
            left, right = rng.choice(["", "", "-", "+"]), rng.choice(["", "", "-", "+"])
            variable_right = "-" if right == "-" else ""
            kind = rng.randrange(6)
            if kind == 0:
                open_blocks.append("if")
                parts.append(f"{space}{{%{left} if {expressions.boolean(1)} {right}%}}")
            elif kind == 1:
                open_blocks.append("for")
                parts.append(f"{space}{{%{left} for i in {expressions.sequence(1)} {right}%}}")
            elif kind == 2 and open_blocks:
                parts.append(f"{space}{{%{left} end{open_blocks.pop()} {right}%}}")
            elif kind == 3:
                parts.append(f"{space}{{{{{left} {expressions.text(1)} {variable_right}}}}}")
            elif kind == 4:
                parts.append(f"{space}{{#{left} c {right}#}}")
            else:
                parts.append(f"{space}{{%{left} set v{rng.randrange(3)} = {expressions.any(1)} {right}%}}{{{{ v{rng.randrange(3)} }}}}")
        parts += [rng.choice(["", "\n"]) + f"{{% end{name} %}}" for name in reversed(open_blocks)]
        yield "".join(parts) + rng.choice(["", "\n", "\n\n"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dump")
    parser.add_argument("templates", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--random", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    comparison = Comparison(arguments.dump)

    files = sorted(arguments.templates.glob("*.jinja"))
    if len(files) < 5:
        sys.exit(f"{arguments.templates} holds {len(files)} templates, expected at least 5")
    model = json.loads((arguments.model / "tokenizer_config.json").read_text())["chat_template"]
    for name, template in [(file.stem, file.read_text()) for file in files] + [("the model's", model)]:
        cases = [(template, context) for context in conversations()]
        before = comparison.rendered
        comparison.compare(name, cases)
        texts = comparison.rendered - before
        print(f"{name}: {len(cases)} chats, {texts} rendered, {len(cases) - texts} refused")
        if texts < len(cases) // 3:
            sys.exit(f"{name}: jinja2 itself refuses most chats: the template proves nothing")

    # The same through ChatTemplate: arguments arrive as text, content as the client wrote it.
    chats = []
    for context in conversations():
        known = all(m["role"] in ("user", "assistant", "system", "tool") for m in context["messages"]) and context["messages"]
        if known and not any(isinstance(m["content"], list) for m in context["messages"]):
            chats.append(context)
    own = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
    lines = []
    for context in chats:
        messages = json.loads(json.dumps(context["messages"]))
        for message in messages:
            for made in message.get("tool_calls") or []:
                made["function"]["arguments"] = json.dumps(made["function"]["arguments"], ensure_ascii=False)
        lines.append({"messages": messages, "tools": context["tools"] or [], "add_generation_prompt": context["add_generation_prompt"],
                      "kwargs": {k: v for k, v in context.items() if k not in own}})
    for context, got in zip(chats, comparison.run(lines, "--chat", str(arguments.model))):
        want = expected(model, {**context, "eos_token": "<|im_end|>", "bos_token": None})
        comparison.count += 1
        if want.get("text") != got.get("text"):
            comparison.report("ChatTemplate", "the model's", context, want, got)

    snippets = [line for line in SNIPPETS.replace("\\\n", "\\\x00").strip().split("\n")]
    comparison.compare("snippet", [(line.replace("\\\x00", "\\\n"), CONTEXT) for line in snippets])
    comparison.compare("layout", [(layout, CONTEXT) for layout in LAYOUTS])
    fixed = comparison.count

    cases = [(template, CONTEXT) for template in random_templates(random.Random(arguments.seed), arguments.random)]
    before = comparison.rendered
    comparison.compare("random", cases, strict=False)
    rendered = comparison.rendered - before
    print(f"{fixed} fixed cases, {len(cases)} random ones of which jinja2 renders {rendered}; {comparison.uncovered} not covered, {comparison.failed} differ")
    if rendered < len(cases) // 3 or comparison.uncovered > len(cases) // 50:
        sys.exit("the random templates prove too little")
    return 1 if comparison.failed else 0


if __name__ == "__main__":
    sys.exit(main())
