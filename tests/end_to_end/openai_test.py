"""The HTTP API of a head with two worker processes and the demo model, as the official `openai` and `anthropic`
packages see it: chats, thinking, tools, structured answers, streams, errors, and clients that leave."""
import asyncio
import concurrent.futures
import http.client
import json
import tempfile
import time

import harness
from harness import ROOT, Client, Head

import anthropic
import openai
from pydantic import BaseModel

DEMO = ROOT / "deploy/demo-model"
PROMPTS = json.loads((DEMO / "eval_prompts.json").read_text())
THINK, ANSWER = ({"chat_template_kwargs": {"enable_thinking": on}} for on in (True, False))
STORY = [{"role": "user", "content": "Please write a story about Nora and a wrong turn."}]


def same_arguments(call, wanted):
    return call.function.name == wanted["name"] and json.loads(call.function.arguments) == wanted["arguments"]


class HttpTest(harness.TestCase):
    ARGUMENTS = ["--local-workers", 2]

    @classmethod
    def setUpClass(cls):
        cls.head = Head(*cls.ARGUMENTS, model=DEMO).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.url = f"http://{cls.head.http}"
        cls.openai = openai.OpenAI(base_url=f"{cls.url}/v1", api_key="none", max_retries=0, timeout=harness.PATIENCE)
        cls.addClassCleanup(cls.openai.close)
        cls.anthropic = anthropic.Anthropic(base_url=cls.url, api_key="none", max_retries=0, timeout=harness.PATIENCE)
        cls.addClassCleanup(cls.anthropic.close)
        cls.grpc = Client(cls.head.grpc)
        cls.addClassCleanup(cls.grpc.close)
        cls.model = cls.openai.models.list().data[0].id

    def chat(self, messages, body=ANSWER, **kwargs):
        kwargs.setdefault("temperature", 0)
        kwargs.setdefault("max_tokens", 400)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.openai.chat.completions.create(model=self.model, messages=messages, extra_body=body, **kwargs)


class Chat(HttpTest):
    def test_models(self):
        model = self.openai.models.list().data[0]
        self.assertEqual(model.id, "demo-model")
        self.assertEqual(self.openai.models.retrieve(model.id).max_model_len, model.max_model_len)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.openai.models.retrieve("gpt-9")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_an_answer(self):
        answer = self.chat("What is the symbol for beryllium?")
        choice = answer.choices[0]
        self.assertIn("Be", choice.message.content)
        self.assertEqual((choice.message.role, choice.finish_reason, choice.logprobs), ("assistant", "stop", None))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_thinking_stands_apart(self):
        answer = self.chat("Sofia has 524 pumps and buys 861 more. How many pumps does she have now?", THINK)
        message = answer.choices[0].message
        self.assertIn("1385", message.content)
        self.assertTrue(message.reasoning_content)
        self.assertEqual(message.reasoning, message.reasoning_content)
        self.assertNotIn("think>", message.content + message.reasoning)
        reasoning = answer.usage.completion_tokens_details.reasoning_tokens
        self.assertTrue(0 < reasoning < answer.usage.completion_tokens)
        self.assertFalse(getattr(self.chat("What is the symbol for beryllium?").choices[0].message, "reasoning", None))

    def test_reasoning_effort_none_turns_thinking_off(self):
        answer = self.chat("How many days are in May?", {}, reasoning_effort="none")
        self.assertFalse(getattr(answer.choices[0].message, "reasoning", None))

    def test_a_stream_says_the_same_token_by_token(self):
        whole = self.chat(STORY, max_tokens=120)
        stream = self.chat(STORY, max_tokens=120, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[0].choices[0].delta.content, "")
        usage = chunks[-1]
        self.assertEqual((usage.choices, usage.usage.completion_tokens), ([], 120))
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        deltas = [chunk.choices[0].delta.content for chunk in chunks[1:-2]]
        self.assertEqual(len(deltas), 120, "one delta per token")
        self.assertEqual("".join(deltas), whole.choices[0].message.content)
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        speculation = usage.metrics["speculative_decoding"]
        self.assertGreater(speculation["num_accepted_draft_tokens"], 0)
        self.assertEqual(usage.timings["draft_n_accepted"], speculation["num_accepted_draft_tokens"])
        self.assertEqual(usage.usage.completion_tokens_details.accepted_prediction_tokens, usage.timings["draft_n_accepted"])
        self.assertGreater(usage.timings["predicted_per_second"], 0)

    def test_usage_in_every_chunk(self):
        stream = self.chat(STORY, max_tokens=8, stream=True,
                           stream_options={"include_usage": True, "continuous_usage_stats": True})
        counts = [chunk.usage.completion_tokens for chunk in stream]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], 8)

    def test_async(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none") as client:
                async def one(seed):
                    stream = await client.chat.completions.create(
                        model=self.model, messages=STORY, max_tokens=40, seed=seed, stream=True, extra_body=ANSWER)
                    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
                return await asyncio.gather(*(one(seed) for seed in (1, 2, 3, 1)))
        texts = asyncio.run(ask())
        self.assertEqual(texts[0], texts[3], "a seed decides the text, whoever runs beside it")
        self.assertNotEqual(texts[0], texts[1])

    def test_choices_are_reproducible_and_different(self):
        first = self.chat(STORY, n=3, seed=5, temperature=1, max_tokens=30)
        texts = [choice.message.content for choice in first.choices]
        self.assertEqual(len(set(texts)), 3)
        self.assertEqual([c.index for c in first.choices], [0, 1, 2])
        again = self.chat(STORY, n=3, seed=5, temperature=1, max_tokens=30)
        self.assertEqual([choice.message.content for choice in again.choices], texts)
        alone = self.chat(STORY, seed=5, temperature=1, max_tokens=30)
        self.assertEqual(alone.choices[0].message.content, texts[0])
        self.assertEqual(first.usage.completion_tokens, 90)

    def test_logprobs(self):
        entries = self.chat("How many days are in May?", logprobs=True, top_logprobs=3).choices[0].logprobs.content
        for entry in entries:
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(entry.token, bytes(entry.bytes).decode())
            self.assertAlmostEqual(entry.top_logprobs[0].logprob, entry.logprob, delta=1e-6)  # greedy

    def test_stop_and_limits(self):
        whole = self.chat(STORY, max_tokens=60).choices[0].message.content
        word = whole.split()[5]
        stopped = self.chat(STORY, max_tokens=60, stop=[word, "never said"]).choices[0]
        self.assertEqual(stopped.message.content, whole[:whole.index(word)])
        self.assertEqual((stopped.finish_reason, stopped.stop_reason), ("stop", word))
        self.assertEqual(self.chat(STORY, max_tokens=60, max_completion_tokens=5).usage.completion_tokens, 5)

    def test_completions(self):
        def complete(prompt, stream=False, **body):
            return self.openai.completions.create(model=self.model, prompt=prompt, max_tokens=12, temperature=0, logprobs=2,
                                                  stream=stream, extra_body={"ignore_eos": True, **body})

        answer = complete("Once upon")
        self.assertEqual(len(answer.choices[0].logprobs.tokens), 12)
        self.assertEqual("".join(chunk.choices[0].text for chunk in complete("Once upon", stream=True)), answer.choices[0].text)
        alone = harness.paceline_json("generate", DEMO, "--prompt", "Once upon", "--max-tokens", 12, "--temperature", 0, "--ignore-eos", "--json")
        self.assertEqual(answer.choices[0].text, alone["text"])
        ids = alone["prompt_token_ids"]
        by_ids = complete(ids, return_token_ids=True)
        self.assertEqual(by_ids.choices[0].token_ids, alone["token_ids"])


class Tools(HttpTest):
    def cases(self):
        for case in PROMPTS["tools"]:
            yield case, dict(messages=case["messages"], tools=case["tools"],
                             body={"chat_template_kwargs": {"enable_thinking": case["enable_thinking"]}})

    def test_every_call_is_valid(self):
        right = called = 0
        for case, request in self.cases():
            choice = self.chat(**request).choices[0]
            for call in choice.message.tool_calls or []:
                self.assertIsInstance(json.loads(call.function.arguments), dict)
                self.assertEqual((call.type, choice.finish_reason), ("function", "tool_calls"))
            calls = choice.message.tool_calls
            if case["expect"]["type"] == "tool_call":
                called += 1
                right += bool(calls) and same_arguments(calls[0], case["expect"]["value"])
            else:  # a question that no tool answers
                self.assertIsNone(calls)
        self.assertEqual((right, called), (8, 8))  # the model card: all of them

    def test_streamed_calls_are_the_same(self):
        for _, request in list(self.cases())[:4]:
            whole = self.chat(**request).choices[0]
            calls, finish = {}, None
            for chunk in self.chat(**request, stream=True):
                finish = chunk.choices[0].finish_reason or finish
                for delta in chunk.choices[0].delta.tool_calls or []:
                    if delta.index not in calls:
                        self.assertTrue(delta.id and delta.function.name and delta.type == "function")
                        calls[delta.index] = [delta.function.name, ""]
                    calls[delta.index][1] += delta.function.arguments or ""
            self.assertEqual(finish, "tool_calls")
            self.assertEqual([(c.function.name, json.loads(c.function.arguments)) for c in whole.message.tool_calls],
                             [(name, json.loads(arguments)) for name, arguments in calls.values()])

    def test_the_stream_helper_of_the_client(self):
        case, request = next(self.cases())
        with self.openai.chat.completions.stream(model=self.model, messages=case["messages"], tools=case["tools"], temperature=0,
                                                 max_tokens=400, extra_body=request["body"]) as stream:
            for _ in stream:
                pass
            completion = stream.get_final_completion()
        self.assertTrue(same_arguments(completion.choices[0].message.tool_calls[0], case["expect"]["value"]))

    def test_a_whole_round(self):
        case, request = next(self.cases())
        messages = list(case["messages"])
        answer = self.chat(**request).choices[0].message
        messages.append(answer.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "12 km"})
        last = self.chat(messages, request["body"], tools=case["tools"]).choices[0]
        self.assertTrue(last.message.content)
        self.assertEqual(last.finish_reason, "stop")

    def test_no_calls_where_none_are_wanted(self):
        _, request = next(self.cases())
        choice = self.chat(**request, tool_choice="none").choices[0]
        self.assertIsNone(choice.message.tool_calls)

    def test_a_required_call_needs_tools(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(STORY, tool_choice="required")
        self.assertEqual(caught.exception.param, "tool_choice")


class Errors(HttpTest):
    def refused(self, kind, call):
        with self.assertRaises(kind) as caught:
            call()
        self.assertEqual(set(caught.exception.body), {"message", "type", "param", "code"})
        return caught.exception

    def test_a_prompt_one_token_too_long(self):
        context = self.openai.models.list().data[0].max_model_len
        def ask(tokens, **kwargs):
            return self.openai.completions.create(model=self.model, prompt=[5] * tokens, max_tokens=1, **kwargs)
        for stream in (False, True):
            error = self.refused(openai.BadRequestError, lambda: ask(context, stream=stream))
            self.assertEqual(error.code, "context_length_exceeded")

    def test_wrong_fields_are_named(self):
        for field, kwargs in [("temperature", {"temperature": -1}), ("top_p", {"top_p": 3}), ("n", {"n": 0}),
                              ("top_logprobs", {"logprobs": True, "top_logprobs": 21}), ("max_tokens", {"max_tokens": 0}),
                              ("logit_bias", {"logit_bias": {"99999": 1}}), ("presence_penalty", {"presence_penalty": 5})]:
            with self.subTest(field):
                error = self.refused(openai.BadRequestError, lambda k=kwargs: self.chat(STORY, **k))
                self.assertEqual(error.param, field)
        for messages in ([], [{"role": "king", "content": "x"}], [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]):
            error = self.refused(openai.BadRequestError, lambda m=messages: self.chat(m))
            self.assertTrue(error.param.startswith("messages"), error.param)

    def test_another_model(self):
        error = self.refused(openai.NotFoundError,
                             lambda: self.openai.chat.completions.create(model="gpt-9", messages=STORY))
        self.assertEqual(error.code, "model_not_found")

    def test_request_ids_come_back(self):
        raw = self.openai.chat.completions.with_raw_response.create(
            model=self.model, messages=STORY, max_tokens=1, extra_headers={"x-request-id": "my-own-1"})
        self.assertEqual(raw.headers["x-request-id"], "my-own-1")


class Structured(HttpTest):
    def test_parse_helper(self):
        class Forecast(BaseModel):
            city: str
            min: int
            max: int
            sky: str
        text = "Write the following as JSON with the keys city, min, max, sky: The forecast for Prague: clear, low 5, high 22."
        try:
            completion = self.openai.chat.completions.parse(
                model=self.model, messages=[{"role": "user", "content": text}], response_format=Forecast, temperature=0,
                max_tokens=200, extra_body=ANSWER)
        except openai.APIStatusError as error:
            self.assertEqual((error.status_code, error.code), (501, "feature_disabled"))
            self.skipTest("this build has no structured output yet")
        self.assertEqual(completion.choices[0].message.parsed, Forecast(city="Prague", min=5, max=22, sky="clear"))

    def test_json_object(self):
        try:
            answer = self.chat(PROMPTS["json"][1]["messages"], response_format={"type": "json_object"})
        except openai.APIStatusError as error:
            self.assertEqual(error.status_code, 501)
            self.skipTest("this build has no structured output yet")
        self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)

    def test_required_tools(self):
        case = PROMPTS["tools"][0]
        for choice in ("required", {"type": "function", "function": {"name": case["tools"][0]["function"]["name"]}}):
            try:
                answer = self.chat(STORY, {"chat_template_kwargs": {"enable_thinking": False}}, tools=case["tools"],
                                   tool_choice=choice, temperature=1, seed=3)
            except openai.APIStatusError as error:
                self.assertEqual(error.status_code, 501)
                self.skipTest("this build has no structured output yet")
            call = answer.choices[0].message.tool_calls[0]
            self.assertEqual(call.function.name, case["tools"][0]["function"]["name"])
            self.assertEqual(set(json.loads(call.function.arguments)), {"start", "end"})


class Responses(HttpTest):
    def test_text(self):
        answer = self.openai.responses.create(model=self.model, instructions="Answer with the value only.",
                                              input="How many days are in May?", temperature=0, max_output_tokens=300)
        self.assertIn("31", answer.output_text)
        self.assertEqual(answer.status, "completed")
        self.assertEqual([item.type for item in answer.output], ["reasoning", "message"])

    def test_stream(self):
        with self.openai.responses.stream(model=self.model, input="How many days are in May?", temperature=0,
                                          max_output_tokens=300) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual((kinds[0], kinds[-1]), ("response.created", "response.completed"))
        self.assertIn("31", final.output_text)

    def test_tools(self):
        case = PROMPTS["tools"][0]
        tools = [{"type": "function", **tool["function"]} for tool in case["tools"]]
        question = [{"role": m["role"], "content": m["content"]} for m in case["messages"]]
        answer = self.openai.responses.create(model=self.model, input=question, tools=tools, temperature=0, max_output_tokens=400)
        call = next(item for item in answer.output if item.type == "function_call")
        self.assertEqual(json.loads(call.arguments), case["expect"]["value"]["arguments"])
        more = question + [item.model_dump(exclude_none=True) for item in answer.output] + [
            {"type": "function_call_output", "call_id": call.call_id, "output": "12 km"}]
        last = self.openai.responses.create(model=self.model, input=more, tools=tools, temperature=0, max_output_tokens=400)
        self.assertTrue(last.output_text)


class Anthropic(HttpTest):
    def ask(self, messages, **kwargs):
        return self.anthropic.messages.create(model=self.model, messages=messages, max_tokens=400,
                                              extra_body={"temperature": 0}, **kwargs)

    def test_text(self):
        question = [{"role": "user", "content": "What is the symbol for beryllium?"}]
        answer = self.ask(question)
        self.assertEqual([block.type for block in answer.content], ["text"])
        self.assertIn("Be", answer.content[0].text)
        self.assertEqual(answer.stop_reason, "end_turn")
        count = self.anthropic.messages.count_tokens(model=self.model, messages=question)
        self.assertEqual(count.input_tokens, answer.usage.input_tokens)

    def test_thinking_streams(self):
        question = [{"role": "user", "content": "Sofia has 524 pumps and buys 861 more. How many pumps does she have now?"}]
        thinking = {"type": "enabled", "budget_tokens": 1024}
        with self.anthropic.messages.stream(model=self.model, messages=question, max_tokens=2000, thinking=thinking, extra_body={"temperature": 0}) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual([block.type for block in final.content], ["thinking", "text"])
        self.assertEqual(final.content[1].text, text)
        self.assertIn("1385", text)
        self.assertGreater(final.usage.input_tokens, 0)

    def test_tools(self):
        case = PROMPTS["tools"][0]
        tools = [{"name": t["function"]["name"], "description": t["function"]["description"], "input_schema": t["function"]["parameters"]}
                 for t in case["tools"]]
        system = case["messages"][0]["content"]
        messages = case["messages"][1:]
        with self.anthropic.messages.stream(model=self.model, messages=messages, system=system, tools=tools, max_tokens=400, extra_body={"temperature": 0}) as stream:
            answer = stream.get_final_message()
        use = next(block for block in answer.content if block.type == "tool_use")
        self.assertEqual((use.name, use.input, answer.stop_reason), (case["expect"]["value"]["name"], case["expect"]["value"]["arguments"], "tool_use"))
        messages = messages + [{"role": "assistant", "content": [block.model_dump() for block in answer.content]},
                               {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "12 km"}]}]
        self.assertTrue(self.ask(messages, system=system, tools=tools).content)

    def test_models(self):
        model = self.anthropic.models.list().data[0]
        self.assertEqual((model.id, model.type), (self.model, "model"))
        self.assertGreater(model.created_at.year, 2025)

    def test_errors(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask([{"role": "king", "content": "x"}])
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")


class Crowd(HttpTest):
    def test_streams_of_a_crowd_are_those_of_one(self):
        kinds = [{"prompt": word, "max_tokens": 12, "temperature": heat, "seed": seed}
                 for word in ("Once", "The capital of Oman is", "Nora took", "[1, 2,") for heat, seed in ((0, 0), (1, 1), (1, 2))]
        alone = [self.openai.completions.create(model=self.model, **kind).choices[0].text for kind in kinds]

        async def crowd():
            async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
                async def one(kind):
                    stream = await client.completions.create(model=self.model, stream=True, **kind)
                    return "".join([chunk.choices[0].text async for chunk in stream])
                return await asyncio.gather(*(one(kinds[i % len(kinds)]) for i in range(200)))

        for i, text in enumerate(asyncio.run(crowd())):
            self.assertEqual(text, alone[i % len(kinds)])
        self.grpc.wait_idle()

    def test_a_storm_of_clients_that_leave(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True})
        request = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

        async def leave(number):
            reader, writer = await asyncio.open_connection(*self.head.http.split(":"))
            writer.write(request)
            await writer.drain()
            if number % 10 == 0:
                await reader.read(1)  # some have seen the answer begin
            writer.close()

        async def storm():
            for _ in range(10):
                await asyncio.gather(*(leave(number) for number in range(50)))

        asyncio.run(storm())
        self.grpc.wait_idle()
        self.assertEqual(len(self.openai.models.list().data), 1)


class Leaving(HttpTest):
    """On links so slow that a long request cannot end by itself while a test runs."""
    ARGUMENTS = ["--local-workers", 1, *harness.SLOW_LINK]

    def long(self, **kwargs):
        return self.openai.completions.create(model=self.model, prompt="Once", max_tokens=8000, extra_body={"ignore_eos": True}, **kwargs)

    def test_a_stream_that_is_closed_frees_its_place(self):
        stream = self.long(stream=True)
        next(iter(stream))
        stream.close()
        self.grpc.wait_idle()

    def test_a_client_that_gives_up_waiting_frees_its_place(self):
        with self.assertRaises(openai.APITimeoutError):
            self.long(timeout=0.5)
        self.grpc.wait_idle()

    def test_a_reader_that_stalls_costs_others_nothing(self):
        stalled = http.client.HTTPConnection(self.head.http)
        body = {"prompt": "Once", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        stalled.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        self.assertEqual(stalled.getresponse().status, 200)  # and nothing more is read
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda _: self.openai.completions.create(model=self.model, prompt="Once", max_tokens=20, temperature=0).choices[0].text, range(4)))
        self.assertEqual(len(set(texts)), 1)
        stalled.close()
        self.grpc.wait_idle()


class Operation(harness.TestCase):
    def get(self, head, path, **headers):
        connection = http.client.HTTPConnection(head.http, timeout=harness.PATIENCE)
        self.addCleanup(connection.close)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def test_keys_from_a_file(self):
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("ann key-of-ann\n")
            keys.flush()
            head = self.start(Head, "--api-keys-file", keys.name, "--no-ui", model=DEMO).wait_ready()
        self.assertEqual(self.get(head, "/health")[0], 200)
        self.assertEqual(self.get(head, "/v1/models")[0], 401)
        self.assertEqual(self.get(head, "/", Authorization="Bearer key-of-ann")[0], 404)
        client = openai.OpenAI(base_url=f"http://{head.http}/v1", api_key="key-of-ann")
        self.addCleanup(client.close)
        self.assertTrue(client.models.list().data)
        wrong = openai.OpenAI(base_url=f"http://{head.http}/v1", api_key="key-of-ben")
        self.addCleanup(wrong.close)
        with self.assertRaises(openai.AuthenticationError):
            wrong.models.list()

    def test_sigterm_lets_streams_end(self):
        head = self.start(Head, "--local-workers", 1, *harness.SLOW_LINK, model=DEMO).wait_ready()
        client = openai.OpenAI(base_url=f"http://{head.http}/v1", api_key="none", max_retries=0)
        self.addCleanup(client.close)
        ask = {"model": "demo-model", "prompt": "Once", "max_tokens": 200, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(stream=True, stream_options={"include_usage": True}, **ask)
        chunks = iter(stream)
        next(chunks)
        head.process.terminate()
        deadline = time.monotonic() + 10
        while (answer := self.get(head, "/ready"))[0] != 503:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(json.loads(answer[1])["status"], "draining")
        with self.assertRaises(openai.InternalServerError) as caught:
            client.completions.create(**ask)
        self.assertEqual((caught.exception.status_code, caught.exception.code), (503, "draining"))
        self.assertEqual(list(chunks)[-1].usage.completion_tokens, 200)
        self.assertEqual(head.wait(), 0)

    def test_a_lost_worker(self):
        head = self.start(Head, "--nodes", 2, model=DEMO, join_port=harness.free_port())
        worker = self.start(harness.Worker, head.join, model=DEMO)
        head.wait_ready()
        self.assertEqual(self.get(head, "/ready")[0], 200)
        worker.kill()
        deadline = time.monotonic() + 10
        while (answer := self.get(head, "/ready"))[0] != 503:
            self.assertLess(time.monotonic(), deadline)
        self.assertIn("alpha", answer[1])
        self.assertEqual(self.get(head, "/livez")[0], 200)
        client = openai.OpenAI(base_url=f"http://{head.http}/v1", api_key="none", max_retries=0)
        self.addCleanup(client.close)
        with self.assertRaises(openai.InternalServerError) as caught:
            client.completions.create(model="demo-model", prompt="Once", max_tokens=2)
        self.assertEqual((caught.exception.status_code, caught.exception.code), (503, "node_lost"))
        self.start(harness.Worker, head.join, model=DEMO, name="beta")
        deadline = time.monotonic() + harness.PATIENCE
        while self.get(head, "/ready")[0] != 200:
            self.assertLess(time.monotonic(), deadline)


if __name__ == "__main__":
    harness.main()
