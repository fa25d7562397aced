"""The public gRPC API of a head with two worker processes, seen from Python: tokens, seeds, streams, errors."""
import json
import struct
import tempfile

import harness
from harness import SERVING, Client, Head, api, cli_generate, control_pb2, error_details, grpc, prompt, request, stream_ids

DEMO = harness.ROOT / "deploy/demo-model"


def fp32(number):
    """The fp32 number that was printed so that it reads back."""
    return struct.unpack("f", struct.pack("f", number))[0]


class Api(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.api = Client(cls.head.grpc)
        cls.addClassCleanup(cls.api.close)

    def test_greedy_tokens_are_those_of_one_process(self):
        for ids in (prompt(1), prompt(40), prompt(300)):
            alone = cli_generate(ids, "--max-tokens", 40, "--temperature", 0)
            answer = self.api.generate(request(ids, max_tokens=40))
            output = answer.outputs[0]
            self.assertEqual([t.id for t in output.tokens], alone["token_ids"])
            self.assertEqual(output.text, alone["text"])
            self.assertEqual(output.reason, api.FINISH_REASON_LENGTH)
            self.assertEqual(answer.completed.usage.prompt_tokens, len(ids))
            self.assertEqual(answer.completed.usage.completion_tokens, 40)
            self.assertEqual(answer.completed.cluster.nodes, 3)
            self.assertEqual(answer.completed.cluster.fingerprint, alone["cluster"]["fingerprint"])

    def test_stream_says_the_same_in_order(self):
        whole = self.api.generate(request())
        events = list(self.api.stream(request()))
        kinds = [e.WhichOneof("event") for e in events]
        self.assertEqual(kinds[0], "started")
        self.assertEqual(kinds[-2:], ["finished", "completed"])
        self.assertEqual(set(kinds[1:-2]), {"tokens"})
        first = events[0].sequence
        self.assertEqual([e.sequence for e in events], list(range(first, first + len(events))))
        self.assertEqual(len({e.request_id for e in events}), 1)
        self.assertEqual(events[0].started.prompt_tokens, len(prompt()))
        self.assertEqual(stream_ids(events), [t.id for t in whole.outputs[0].tokens])
        self.assertEqual("".join(t.text for e in events for t in e.tokens.tokens), whole.outputs[0].text)

    def test_text_and_its_ids_are_one_prompt(self):
        text = "abc def"
        ids = list(self.api.inference.Tokenize(api.TokenizeRequest(text=text), timeout=harness.PATIENCE).ids)
        self.assertTrue(ids)
        by_text, by_ids = self.api.generate(request(text=text)), self.api.generate(request(ids))
        self.assertEqual([t.id for t in by_text.outputs[0].tokens], [t.id for t in by_ids.outputs[0].tokens])

    def test_a_seed_decides_the_tokens(self):
        def sample(**kwargs):
            answer = self.api.generate(request(max_tokens=64, temperature=1.0, **kwargs))
            return [t.id for t in answer.outputs[0].tokens], answer.completed.seed

        first, seed = sample(seed=11)
        self.assertEqual(seed, 11)
        self.assertEqual(sample(seed=11)[0], first)
        self.assertNotEqual(sample(seed=12)[0], first)
        drawn, seed = sample()
        self.assertEqual(sample(seed=seed)[0], drawn)
        # One table of defaults for the API and the command line: top-k and top-p come from generation_config.json.
        alone = cli_generate(prompt(), "--max-tokens", 64, "--temperature", 1, "--seed", 11)
        self.assertEqual(alone["token_ids"], first)
        self.assertNotEqual(sample(seed=11, top_k=0, top_p=1.0)[0], first)

    def test_several_answers_are_each_their_own(self):
        asked = request(max_tokens=24, temperature=1.0, seed=11, num_sequences=3)
        answer = self.api.generate(asked)
        texts = [[t.id for t in output.tokens] for output in answer.outputs]
        self.assertEqual([output.index for output in answer.outputs], [0, 1, 2])
        self.assertEqual(len({tuple(text) for text in texts}), 3)
        self.assertEqual(answer.completed.usage.completion_tokens, 72)
        self.assertEqual(answer.completed.seed, 11)
        asked.sampling.num_sequences = 1
        self.assertEqual([t.id for t in self.api.generate(asked).outputs[0].tokens], texts[0])
        asked.sampling.num_sequences = 2
        streamed = {}
        for event in self.api.stream(asked):
            for token in event.tokens.tokens:
                streamed.setdefault(event.tokens.output_index, []).append(token.id)
        self.assertEqual(streamed, {0: texts[0], 1: texts[1]})

    def test_requests_at_the_same_time_do_not_touch_each_other(self):
        prompts = [prompt(5 + 9 * i, seed=i) for i in range(4)]
        alone = [[t.id for t in self.api.generate(request(ids)).outputs[0].tokens] for ids in prompts]
        calls = [self.api.inference.Generate.future(request(ids), timeout=harness.PATIENCE) for ids in prompts]
        self.assertEqual([[t.id for t in call.result().outputs[0].tokens] for call in calls], alone)

    def test_command_line_against_the_head(self):
        here = cli_generate(prompt(), "--max-tokens", 24, "--temperature", 0)
        there = cli_generate(prompt(), "--max-tokens", 24, "--temperature", 0, target=f"grpc://{self.head.grpc}")
        for key in ("prompt_token_ids", "token_ids", "text", "finish_reason", "usage"):
            self.assertEqual(there[key], here[key], key)
        self.assertIsNone(there["logits_hash"])
        self.assertEqual(there["cluster"]["nodes"], 3)

    def test_status(self):
        status = self.head.status()
        self.assertEqual(status["state"], "ready")
        self.assertEqual([n["role"] for n in status["nodes"]], ["head", "worker", "worker"])
        self.assertEqual({n["state"] for n in status["nodes"]}, {"ready"})
        self.assertEqual(len({n["pid"] for n in status["nodes"]}), 3)
        self.assertEqual(len({n["fingerprint"] for n in status["nodes"]}), 1)
        self.assertEqual(sum(n["leaves"] for n in status["nodes"]), 4 * 4 * 2)  # layers x experts x groups

    def test_health_and_reflection(self):
        from google.protobuf.descriptor_pool import DescriptorPool
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        self.assertEqual(self.api.check(), SERVING)
        self.assertEqual(self.api.check("paceline.inference.v1.InferenceService"), SERVING)
        reflection = ProtoReflectionDescriptorDatabase(self.api.channel)
        services = reflection.get_services()
        for name in ("paceline.inference.v1.InferenceService", "paceline.control.v1.ControlService", "grpc.health.v1.Health"):
            self.assertIn(name, services)
        service = DescriptorPool(reflection).FindServiceByName("paceline.inference.v1.InferenceService")
        self.assertEqual({m.name for m in service.methods} >= {"Generate", "GenerateStream", "Tokenize"}, True)

    def test_a_wrong_field_is_named(self):
        def bad(change, **kwargs):
            made = request(**kwargs)
            change(made)
            return made

        cases = [
            ("sampling.temperature", request(temperature=-1.0)),
            ("sampling.top_p", request(top_p=1.5)),
            ("sampling.min_p", request(min_p=-0.5)),
            ("token_ids", request([1, 2, 400])),  # the vocabulary has 400 rows
            ("token_ids", bad(lambda r: r.token_ids.SetInParent(), ids=[])),
        ]
        for field, made in cases:
            with self.subTest(field=field):
                error = self.refused(lambda m=made: self.api.generate(m))
                self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT, error.details())
                info, fields = error_details(error)
                self.assertIsNotNone(info)
                self.assertTrue(any(name.startswith(field) for name in fields), f"{field} not in {fields}")
        error = self.refused(lambda: self.api.generate(request([1, 2, 400])))
        self.assertIn("400", error.details())

    def test_a_chat_without_messages_is_the_clients_mistake(self):
        error = self.refused(lambda: self.api.generate(api.GenerateRequest(chat=api.ChatInput())))
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT, error.details())
        self.assertEqual(list(error_details(error)[1]), ["chat.messages"])


class Chat(harness.TestCase):
    """The demo model through its chat template."""

    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 1, model=harness.ROOT / "deploy/demo-model").wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.api = Client(cls.head.grpc)
        cls.addClassCleanup(cls.api.close)

    TOOL = {"type": "function", "function": {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
    MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What time is it in Z\u00fcrich?"}]

    def apply(self, **kwargs):
        made = api.ApplyChatTemplateRequest(**kwargs)
        return self.api.inference.ApplyChatTemplate(made, timeout=harness.PATIENCE)

    def test_a_chat_is_the_text_its_template_makes(self):
        chat = api.ChatInput(json=json.dumps({"messages": self.MESSAGES, "tools": [self.TOOL]}))
        prompt = self.apply(chat=chat, tokenize=True)
        self.assertTrue(prompt.text.startswith("<|im_start|>system\n# Tools"), prompt.text)
        self.assertIn("\n" + json.dumps(self.TOOL) + "\n", prompt.text)
        self.assertTrue(prompt.text.endswith("in Z\u00fcrich?<|im_end|>\n<|im_start|>assistant\n<think>\n"), prompt.text)
        self.assertTrue(prompt.starts_in_reasoning)
        back = self.api.inference.Detokenize(api.DetokenizeRequest(ids=prompt.ids), timeout=harness.PATIENCE)
        self.assertEqual(back.text, prompt.text)
        made = request(text="", max_tokens=24)
        made.chat.CopyFrom(chat)
        by_chat, by_text = self.api.generate(made), self.api.generate(request(text=prompt.text, max_tokens=24))
        self.assertEqual([t.id for t in by_chat.outputs[0].tokens], [t.id for t in by_text.outputs[0].tokens])
        self.assertEqual(by_chat.completed.usage.prompt_tokens, len(prompt.ids))
        streamed = stream_ids(self.api.stream(made))
        self.assertEqual(streamed, [t.id for t in by_text.outputs[0].tokens])

    def test_structs_say_the_same(self):
        chat = api.ChatInput()
        for message in self.MESSAGES:
            chat.messages.add().update(message)
        chat.tools.add().update(self.TOOL)
        chat.template_kwargs.update({"enable_thinking": False})
        prompt = self.apply(chat=chat)
        self.assertIn("\n" + json.dumps(self.TOOL) + "\n", prompt.text)
        self.assertTrue(prompt.text.endswith("<think>\n\n</think>\n\n"), prompt.text)
        self.assertFalse(prompt.starts_in_reasoning)
        self.assertEqual(len(prompt.ids), 0)

    def test_what_the_template_refuses_is_the_clients(self):
        wrong = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
        error = self.refused(lambda: self.apply(chat=api.ChatInput(json=json.dumps({"messages": wrong}))))
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("The system message must come first.", error.details())
        _, fields = error_details(error)
        self.assertEqual(list(fields), ["chat.messages"])


class Channels(harness.TestCase):
    """A chat over gRPC comes apart as it does over HTTP; a prompt is scored as `score` does it."""

    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, model=DEMO).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.client = harness.Client(cls.head.grpc)
        cls.addClassCleanup(cls.client.close)

    def chat(self, question, thinking=False, tools=(), system=None, max_tokens=400, **chat):
        made = api.GenerateRequest()
        messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": question}]
        made.chat.json = json.dumps({"messages": messages, "tools": list(tools)})
        made.chat.template_kwargs.update({"enable_thinking": thinking})
        for name, value in chat.items():
            setattr(made.chat, name, value)
        made.sampling.temperature = 0
        made.stopping.max_tokens = max_tokens
        return made

    def streamed(self, request):
        """Text by channel, calls, and every event."""
        events = list(self.client.stream(request))
        text, calls, ids = {}, [], []
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "tokens":
                self.assertIn(event.tokens.channel, ("content", "reasoning", "tool_call"))
                text[event.tokens.channel] = text.get(event.tokens.channel, "") + "".join(t.text for t in event.tokens.tokens)
                ids += [t.id for t in event.tokens.tokens if not t.continued]
            elif kind == "tool_call":
                call = event.tool_call
                if call.id:
                    self.assertEqual(call.index, len(calls))
                    calls.append([call.name, ""])
                calls[call.index][1] += call.arguments_fragment
        return text, calls, ids, events

    def test_reasoning_and_content(self):
        request = self.chat("Sofia has 524 pumps and buys 861 more. How many pumps does she have now?", thinking=True)
        text, calls, ids, events = self.streamed(request)
        self.assertIn("1385", text["content"])
        self.assertTrue(text["reasoning"])
        self.assertNotIn("think>", text["content"] + text["reasoning"])
        self.assertEqual((text["content"], text["reasoning"]), (text["content"].strip(), text["reasoning"].strip()))
        usage = events[-1].completed.usage
        self.assertEqual(len(ids), usage.completion_tokens)
        self.assertTrue(0 < usage.reasoning_tokens < usage.completion_tokens)
        whole = self.client.generate(request)
        self.assertEqual((whole.outputs[0].text, whole.outputs[0].reasoning), (text["content"], text["reasoning"]))
        self.assertEqual([t.id for t in whole.outputs[0].tokens if not t.continued], ids)
        # As the model wrote it, where that is wanted.
        request.response.split_channels = False
        raw, _, same, _ = self.streamed(request)
        self.assertEqual(set(raw), {"content"})
        self.assertEqual(same, ids)
        self.assertIn("</think>", raw["content"])
        self.assertIn(text["reasoning"], raw["content"])

    def test_tool_calls(self):
        called = 0
        for entry in json.loads((DEMO / "eval_prompts.json").read_text())["tools"]:
            made = api.GenerateRequest()
            made.chat.json = json.dumps({"messages": entry["messages"], "tools": entry["tools"]})
            made.chat.template_kwargs.update({"enable_thinking": entry["enable_thinking"]})
            made.sampling.temperature = 0
            made.stopping.max_tokens = 400
            text, calls, ids, events = self.streamed(made)
            finished = next(event.finished for event in events if event.WhichOneof("event") == "finished")
            whole = self.client.generate(made).outputs[0]
            self.assertEqual([[call.name, call.arguments_fragment] for call in whole.tool_calls], calls)
            if not calls:
                continue
            called += 1
            with self.subTest(entry["messages"][-1]["content"]):
                self.assertEqual(finished.reason, api.FINISH_REASON_TOOL_CALLS)
                self.assertEqual(whole.reason, api.FINISH_REASON_TOOL_CALLS)
                for name, arguments in calls:
                    self.assertIsInstance(json.loads(arguments), dict)
                self.assertIn("<tool_call>", text["tool_call"])
                self.assertNotIn("tool_call>", text.get("content", ""))
                self.assertEqual(len(ids), events[-1].completed.usage.completion_tokens)
        self.assertEqual(called, 8)  # as over HTTP

    def test_a_call_can_be_asked_for(self):
        tool = {"type": "function", "function": {"name": "set_timer", "description": "Set a timer", "parameters": {
            "type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}}}
        for choice in ("required", "set_timer"):
            _, calls, _, _ = self.streamed(self.chat("Hello there.", tools=[tool], tool_choice=choice))
            self.assertEqual(calls[0][0], "set_timer")
            self.assertIsInstance(json.loads(calls[0][1])["minutes"], int)
        _, calls, _, _ = self.streamed(self.chat("Hello there.", tools=[tool], tool_choice="none"))
        self.assertEqual(calls, [])
        error = self.refused(lambda: self.client.generate(self.chat("Hello there.", tools=[tool], tool_choice="fly")))
        self.assertIn("chat.tool_choice", error_details(error)[1])

    def test_usage_in_every_message(self):
        request = self.chat("Please write a story about Nora and a wrong turn.", max_tokens=20)
        request.response.usage_every_chunk = True
        _, _, _, events = self.streamed(request)
        counts = [event.tokens.usage.completion_tokens for event in events if event.WhichOneof("event") == "tokens"]
        self.assertEqual(counts, list(range(1, 21)))
        self.assertEqual(counts[-1], events[-1].completed.usage.completion_tokens)

    def test_a_prompt_is_scored(self):
        text = "<|im_start|>user\nHow many days are in May?<|im_end|>\n" * 40
        made = harness.request(text=text, max_tokens=3)
        made.response.prompt_logprobs = 3
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(list(self.client.inference.Tokenize(api.TokenizeRequest(text=text)).ids), file)
            file.flush()
            scored = harness.paceline_json("score", DEMO, "--tokens-json", file.name, "--top", 3, "--json")
        plain = self.client.generate(harness.request(text=text, max_tokens=3))
        for _ in range(2):  # the second finds the text in the cache, and runs it all the same
            answer = self.client.generate(made)
            tokens = answer.prompt.tokens
            self.assertEqual([token.id for token in tokens], scored["token_ids"])
            self.assertFalse(tokens[0].HasField("logprob"))
            self.assertEqual([token.logprob for token in tokens[1:]], list(map(fp32, scored["logprobs"][1:])), "bit for bit")
            self.assertEqual("".join(token.text for token in tokens), text)
            for token, top in zip(list(tokens)[1:], scored["top"]):
                self.assertEqual([[c.id, c.logprob] for c in token.candidates], [[i, fp32(x)] for i, x in top])
                if token.rank <= 3:
                    self.assertEqual(token.candidates[token.rank - 1].id, token.id)
            self.assertEqual(answer.outputs[0].tokens, plain.outputs[0].tokens)
        events = list(self.client.stream(made))
        self.assertEqual([event.WhichOneof("event") for event in events[:3]], ["started", "prompt", "tokens"])


class Keys(harness.TestCase):
    def test_keys_are_the_same_over_grpc(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
            file.write("ann secret-of-ann\nben secret-of-ben\n")
            file.flush()
            head = self.start(Head, "--api-keys-file", file.name, "--prefix-cache", "64M", model=DEMO).wait_ready()
        client = self.client(head)
        made = harness.request(text="A long text about nothing in particular. " * 60, max_tokens=2)
        for key in (None, "secret-of-nobody"):
            metadata = [("authorization", f"Bearer {key}")] if key else []
            error = self.refused(lambda: client.generate(made, metadata=metadata))
            self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
            self.assertEqual(error_details(error)[0].reason, "API_KEY_INVALID")
        self.assertEqual(client.check(), harness.SERVING)

        def cached(key):
            answer = client.generate(made, metadata=[("authorization", f"Bearer {key}")])
            return answer.completed.usage.cached_prompt_tokens
        self.assertEqual(cached("secret-of-ann"), 0)
        self.assertGreater(cached("secret-of-ann"), 0)
        self.assertEqual(cached("secret-of-ben"), 0, "texts of other keys are never met")
        status, _, err = harness.paceline("status", f"grpc://{head.grpc}")
        self.assertNotEqual(status, 0)
        self.assertIn("API key", err)
        status, out, err = harness.paceline("status", f"grpc://{head.grpc}", env={"PACELINE_API_KEY": "secret-of-ben"})
        self.assertEqual(status, 0, err)


class Leaving(harness.TestCase):
    """Requests that end before their last token, on a link slow enough that they surely would not have."""

    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 1, *harness.SLOW_LINK).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.api = Client(cls.head.grpc)
        cls.addClassCleanup(cls.api.close)
        cls.long = request(max_tokens=4000)

    def test_a_client_that_leaves_frees_its_place(self):
        stream = self.api.stream(self.long)
        while not stream_ids([next(stream)]):
            pass
        stream.cancel()
        self.api.wait_idle()
        self.assertEqual(len(self.api.generate(request(max_tokens=4)).outputs[0].tokens), 4)

    def test_a_deadline_ends_the_request(self):
        error = self.refused(lambda: list(self.api.stream(self.long, timeout=0.5)))
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.api.wait_idle()
        self.assertEqual(len(self.api.generate(request(max_tokens=4)).outputs[0].tokens), 4)

    def test_sigterm_leaves_no_process(self):
        head = self.start(Head, "--local-workers", 2).wait_ready()
        family = head.family()
        self.assertEqual(len(family), 3)
        self.assertIn(head.terminate(), (0, 143))
        harness.wait_gone(family)
        self.assertEqual(head.family(), [])

    def test_a_killed_head_takes_its_workers_along(self):
        head = self.start(Head, "--local-workers", 2).wait_ready()
        family = head.family()
        head.kill()
        head.wait()
        harness.wait_gone(family)
        self.assertEqual(head.family(), [])


class Contended(harness.TestCase):
    """Many requests for few places: who is refused, who gives way, what is found again."""

    def head(self, *args):
        return self.client(self.start(Head, *args).wait_ready())

    def load(self, client):
        return client.control.GetLoad(control_pb2.GetLoadRequest(), timeout=harness.PATIENCE)

    def test_the_next_turn_goes_on_from_the_last(self):
        client = self.head("--local-workers", 1)
        ids = prompt(290)
        for turn, cached in enumerate((0, 512, 768, 768)):
            events = list(client.stream(request(ids, max_tokens=240)))
            answer = stream_ids(events)
            self.assertEqual(events[0].started.cached_tokens, cached, turn)
            self.assertEqual(events[-1].completed.usage.cached_prompt_tokens, cached)
            alone = cli_generate(ids, "--max-tokens", 240, "--temperature", 0)
            self.assertEqual(answer, alone["token_ids"], f"turn {turn}")
            ids = ids + answer + [1, 2, 3]
        load = self.load(client)
        self.assertEqual(load.kv_pages_used, 0)
        self.assertEqual(load.prefix_cache_hit_tokens, 512 + 768 + 768)
        self.assertGreater(load.prefix_cache_snapshots_used, 0)
        for change in (lambda r: setattr(r.cache, "cache_salt", "x"),
                       lambda r: setattr(r.cache, "bypass_prefix_cache", True)):
            asked = request(ids, max_tokens=2)
            change(asked)
            self.assertEqual(client.generate(asked).completed.usage.cached_prompt_tokens, 0)

    def test_without_a_prefix_cache_nothing_is_found(self):
        client = self.head("--prefix-cache", "off")
        for _ in range(2):
            answer = client.generate(request(prompt(600), max_tokens=2))
            self.assertEqual(answer.completed.usage.cached_prompt_tokens, 0)

    def test_few_pages_change_no_token(self):
        client = self.head("--kv-pages", 5, "--max-sequences", 4)
        asked = [request(prompt(100 + 60 * i, seed=i), max_tokens=400, temperature=0.9 if i % 2 else 0.0, seed=i)
                 for i in range(8)]
        for i, one in enumerate(asked):
            one.priority = i % 3
        calls = [client.inference.Generate.future(one, timeout=harness.PATIENCE) for one in asked]
        together = [[t.id for t in call.result().outputs[0].tokens] for call in calls]
        self.assertGreater(self.load(client).preemptions, 0)
        for one, tokens in zip(asked, together):
            one.cache.bypass_prefix_cache = True
            self.assertEqual([t.id for t in client.generate(one).outputs[0].tokens], tokens)

    def test_too_many_are_refused_at_the_door(self):
        client = self.head("--max-sequences", 1, "--max-waiting", 1, "--local-workers", 1, *harness.SLOW_LINK)
        runs = client.stream(request(max_tokens=4000))
        next(runs)
        asked = request(max_tokens=1)
        asked.stopping.queue_limit.FromMilliseconds(200)
        waits = client.inference.Generate.future(asked, timeout=harness.PATIENCE)
        while self.load(client).waiting == 0:
            pass
        error = self.refused(lambda: client.generate(request(max_tokens=1)))
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, error.details())
        self.assertEqual(error_details(error)[0].reason, "QUEUE_FULL")
        error = self.refused(waits.result)
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, error.details())
        self.assertEqual(error_details(error)[0].reason, "QUEUE_TIMEOUT")
        runs.cancel()
        client.wait_idle()

    def test_a_stream_is_resumed_and_aborted(self):
        client = self.head("--local-workers", 1, *harness.SLOW_LINK)
        asked = request(max_tokens=300)
        asked.request_id = "mine"
        asked.response.resume_window.FromSeconds(60)
        stream = client.stream(asked)
        events = [next(stream) for _ in range(5)]
        stream.cancel()
        resume = lambda after: client.inference.ResumeGeneration(
            api.ResumeGenerationRequest(request_id="mine", after_sequence=after), timeout=harness.PATIENCE)
        events += [e.response for e in resume(events[-1].sequence)]
        self.assertEqual([e.sequence for e in events], list(range(1, len(events) + 1)))
        self.assertEqual(stream_ids(events), cli_generate(prompt(), "--max-tokens", 300, "--temperature", 0)["token_ids"])
        error = self.refused(lambda: list(client.inference.ResumeGeneration(
            api.ResumeGenerationRequest(request_id="nobody"), timeout=harness.PATIENCE)))
        self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)

        asked = request(max_tokens=4000)
        asked.request_id = "long"
        stream = client.stream(asked)
        next(stream)
        client.control.Abort(control_pb2.AbortRequest(request_id="long"), timeout=harness.PATIENCE)
        self.assertEqual(self.refused(lambda: list(stream)).code(), grpc.StatusCode.CANCELLED)
        client.wait_idle()
        error = self.refused(lambda: client.control.Abort(control_pb2.AbortRequest(request_id="long"),
                                                          timeout=harness.PATIENCE))
        self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(error_details(error)[0].reason, "REQUEST_NOT_FOUND")


if __name__ == "__main__":
    harness.main()
