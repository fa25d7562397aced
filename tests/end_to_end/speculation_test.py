"""Speculation as users meet it: the same tokens drafted and plain, `verify` and its exit statuses, `bench draft`, refusals."""
import concurrent.futures
import json
import pathlib
import struct
import tempfile

import harness
from harness import ROOT, Head, TestCase, api, cli_generate, grpc, inference_pb2_grpc, main, paceline, paceline_json, prompt

DEMO_MODEL = ROOT / "deploy/demo-model"
CASES = ROOT / "tests/goldens/cases"
WITH_MTP = CASES / "mtp-equals-target"
NAMES = [f"{what}-{how}" for what in ("drafted", "batched", "ranks") for how in ("greedy", "seeded")]


def without_tensor(model, name, folder):
    """A copy of `model` in `folder` whose files lack the tensor `name`."""
    for file in model.iterdir():
        target = pathlib.Path(folder) / file.name
        if file.suffix == ".safetensors":
            data = file.read_bytes()
            size, = struct.unpack("<Q", data[:8])
            header = json.loads(data[8:8 + size])
            kept, body = {}, b""
            for key, entry in header.items():
                if key == "__metadata__":
                    kept[key] = entry
                elif key != name:
                    begin, end = entry["data_offsets"]
                    kept[key] = {**entry, "data_offsets": [len(body), len(body) + end - begin]}
                    body += data[8 + size + begin:8 + size + end]
            text = json.dumps(kept).encode()
            target.write_bytes(struct.pack("<Q", len(text)) + text + body)
        elif file.name.endswith(".index.json"):
            index = json.loads(file.read_text())
            index["weight_map"].pop(name, None)
            target.write_text(json.dumps(index))
        elif file.is_file():
            target.symlink_to(file)
    return folder


def mtp_tensors(model):
    names = []
    for file in sorted(model.glob("*.safetensors")):
        data = file.read_bytes()
        size, = struct.unpack("<Q", data[:8])
        names += [key for key in json.loads(data[8:8 + size]) if key.startswith("mtp.")]
    return sorted(names)


class Speculation(TestCase):
    def test_a_layer_that_equals_the_target_is_always_right(self):
        plain = cli_generate(prompt(20), "--max-tokens", 40, "--temperature", 0, "--draft", "off", target=WITH_MTP)
        self.assertEqual(plain["speculation"]["method"], "off")
        self.assertEqual(plain["speculation"]["drafted"], 0)
        for link in (("--local-workers", 0), ("--local-workers", 1), ("--local-workers", 1, "--link", "loopback")):
            drafted = cli_generate(prompt(20), "--max-tokens", 40, "--temperature", 0, "--draft", 3, "--drafter", "mtp",
                                   "--mtp-format", "stored", "--simulate-link", "rtt=100us,jitter=20us", *link, target=WITH_MTP)
            self.assertEqual(drafted["token_ids"], plain["token_ids"])
            self.assertEqual(drafted["text"], plain["text"])
            stats = drafted["speculation"]
            self.assertEqual(stats["method"], "mtp")
            self.assertGreater(stats["drafted"], 0)
            self.assertEqual(stats["accepted"], sum(stats["accepted_per_position"]))
            self.assertEqual(sum(stats["histogram"]), stats["steps"])
            self.assertEqual(stats["drafted"], sum(stats["drafted_per_position"]))
            shares = [a / d for a, d in zip(stats["accepted_per_position"], stats["drafted_per_position"], strict=True)]
            self.assertEqual(stats["acceptance_per_position"], shares)
            self.assertEqual(stats["per_source"]["mtp"]["drafted"], stats["drafted"])
            self.assertLess(stats["decode_steps"], 40)
            # Drafts behind the last token wanted are not counted as accepted.
            self.assertGreaterEqual(stats["accepted"], stats["drafted"] - 3)

    def test_penalties_and_biases_do_what_they_say_drafted_or_not(self):
        def run(*args):
            return cli_generate(prompt(20), "--max-tokens", 24, "--temperature", 0, *args, target=WITH_MTP)["token_ids"]

        plain = run("--draft", "off")
        banned = plain[0]
        without = run("--draft", "off", "--logit-bias", f"{banned}=-100")
        self.assertNotIn(banned, without)
        self.assertEqual(run("--draft", 4, "--logit-bias", f"{banned}=-100"), without)
        # The greedy text repeats one token, which the strongest of these drive away.
        self.assertLess(len(set(plain)), len(plain))
        for penalty in (("--frequency-penalty", 2), ("--repetition-penalty", 100)):
            fresh = run("--draft", "off", *penalty)
            self.assertNotEqual(fresh, plain, penalty)
            self.assertEqual(run("--draft", 4, *penalty), fresh, penalty)

        def draw(*args):
            hot = ("--max-tokens", 48, "--temperature", 2, "--seed", 3)
            return cli_generate(prompt(20), *hot, *args, target=WITH_MTP)["token_ids"]

        fresh = draw("--draft", "off", "--presence-penalty", 2)
        self.assertNotEqual(fresh, draw("--draft", "off"))
        self.assertEqual(draw("--draft", 4, "--presence-penalty", 2), fresh)

    def test_every_command_and_link_takes_a_simulated_wire(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as ids:
            json.dump(prompt(30), ids)
            ids.flush()
            alone = paceline_json("score", WITH_MTP, "--tokens-json", ids.name, "--json")
            for link in ("loopback", "tcp", "ucx"):
                wired = paceline_json("score", WITH_MTP, "--tokens-json", ids.name, "--json", "--local-workers", 2, "--link", link,
                                      "--simulate-link", "rtt=200us,jitter=50us,bandwidth=1Gbit,seed=3", "--head-split")
                self.assertEqual(wired["logits_hash"], alone["logits_hash"])

    def test_verify_finds_drafts_ranks_and_batches_equal(self):
        status, out, err = paceline("verify", DEMO_MODEL, "--max-tokens", 32, "--json")
        self.assertEqual(status, 0, err)
        said = json.loads(out)
        self.assertTrue(said["equal"])
        self.assertEqual([c["name"] for c in said["comparisons"]], NAMES)
        for comparison in said["comparisons"]:
            self.assertTrue(comparison["equal"])
            self.assertEqual(comparison["tokens"], 32)
            self.assertIsNone(comparison["first_difference"])
        self.assertGreater(said["comparisons"][0]["drafted"], 0)

    def test_verify_finds_them_equal_over_keys_and_values_in_codes(self):
        for dtype in ("int8", "int4"):
            status, out, err = paceline("verify", DEMO_MODEL, "--max-tokens", 32, "--local-workers", 1, "--kv-dtype", dtype, "--json")
            self.assertEqual(status, 0, err)
            said = json.loads(out)
            self.assertTrue(said["equal"], dtype)
            self.assertEqual([c["name"] for c in said["comparisons"]], NAMES)
            self.assertGreater(said["comparisons"][0]["drafted"], 0)

    def test_verify_takes_rules_that_name_ranks(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as rules:
            json.dump({"rules": [{"holders": [1]}]}, rules)
            rules.flush()
            status, out, err = paceline("verify", WITH_MTP, "--max-tokens", 12, "--placement", rules.name, "--head-split", "--json")
            self.assertEqual(status, 0, err)
            self.assertEqual([c["name"] for c in json.loads(out)["comparisons"]], NAMES)

    def test_verify_against_a_running_head(self):
        head = self.start(Head, "--local-workers", 1, model=WITH_MTP).wait_ready()
        status, out, err = paceline("verify", f"grpc://{head.grpc}", "--max-tokens", 24)
        self.assertEqual(status, 0, err)
        self.assertEqual([line.split()[0] for line in out.splitlines()[1:5]], NAMES[:4])
        self.assertTrue(out.splitlines()[-1].startswith("equal"), out)
        drafted = cli_generate(prompt(20), "--max-tokens", 24, "--temperature", 0, "--draft", 2, target=f"grpc://{head.grpc}")
        self.assertGreater(drafted["speculation"]["drafted"], 0)
        plain = cli_generate(prompt(20), "--max-tokens", 24, "--temperature", 0, "--draft", "off", target=f"grpc://{head.grpc}")
        self.assertEqual(plain["speculation"]["drafted"], 0)
        self.assertEqual(plain["token_ids"], drafted["token_ids"])
        status, out, err = paceline("status", f"grpc://{head.grpc}", "--metrics")
        self.assertEqual(status, 0, err)
        self.assertRegex(out, r"(?m)^vllm:spec_decode_num_draft_tokens_total\{.*\} [1-9]")

    def faulty_head(self, drafted, differs):
        """A head whose drafts may change the text: its fifth token depends on being asked to draft. Its address."""
        class Faulty(inference_pb2_grpc.InferenceServiceServicer):
            def Tokenize(self, wanted, context):
                return api.TokenizeResponse(ids=[1, 2, 3])

            def GenerateStream(self, wanted, context):
                drafts = wanted.request.speculation.mode == api.SpeculationOptions.MODE_FIXED
                yield api.GenerateStreamResponse(started=api.Started(model="faulty", prompt_tokens=3))
                for i in range(wanted.request.stopping.max_tokens):
                    token = api.Token(id=100 + i + (7 if drafts and differs and i == 4 else 0), logprob=-0.5 * i)
                    yield api.GenerateStreamResponse(tokens=api.Tokens(tokens=[token]))
                yield api.GenerateStreamResponse(finished=api.Finished(reason=api.FINISH_REASON_LENGTH))
                done = api.Completed(speculation=api.SpeculationStats(method="mtp", drafted=drafted if drafts else 0))
                yield api.GenerateStreamResponse(completed=done)

        server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(Faulty(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(server.stop, None)
        return f"grpc://127.0.0.1:{port}"

    def test_verify_says_where_a_head_differs(self):
        head = self.faulty_head(drafted=9, differs=True)
        status, out, err = paceline("verify", head, "--max-tokens", 8, "--json")
        self.assertEqual(status, 1, err)
        said = json.loads(out)
        self.assertFalse(said["equal"])
        verdicts = {c["name"]: c for c in said["comparisons"]}
        self.assertEqual(list(verdicts), NAMES[:4])
        self.assertTrue(verdicts["batched-greedy"]["equal"])
        self.assertEqual(verdicts["drafted-greedy"]["first_difference"], {"position": 4, "left": [104, -2.0], "right": [111, -2.0]})
        self.assertEqual(verdicts["drafted-greedy"]["tokens"], 5)
        status, out, _ = paceline("verify", head, "--max-tokens", 8)
        self.assertEqual(status, 1)
        self.assertIn("DIFFERENT: 2 of 4", out.splitlines()[-1])

    def test_verify_of_a_head_that_drafts_nothing_proves_nothing_but_what_differs(self):
        status, out, err = paceline("verify", self.faulty_head(drafted=0, differs=True), "--max-tokens", 8)
        self.assertEqual(status, 1, err)
        self.assertIn("DIFFERENT: 2 of 4", out.splitlines()[-1])
        status, out, err = paceline("verify", self.faulty_head(drafted=0, differs=False), "--max-tokens", 8)
        self.assertEqual((status, out), (2, ""), err)
        self.assertIn("drafted-greedy: nothing was drafted", err)

    def test_verify_that_cannot_run_says_why(self):
        for args, said in ((["/no/such/model"], "/no/such/model"),
                           ([f"grpc://127.0.0.1:{harness.free_port()}"], "NET-002"),
                           ([CASES / "qwen3-moe-int4", "--drafter", "mtp"], "MTP"),
                           ([WITH_MTP, "--draft", "0"], "--draft")):
            status, out, err = paceline("verify", *args, "--max-tokens", 4)
            self.assertEqual((status, out), (2, ""), err)
            self.assertIn(said, err)

    def test_bench_draft_measures_every_depth(self):
        told = paceline_json("bench", "draft", WITH_MTP, "--local-workers", 1, "--simulate-link", "rtt=200us", "--depths", "2,auto",
                             "--assume-acceptance", "1", "--tokens", 24, "--rounds", 2, "--json")
        self.assertEqual([r["depth"] for r in told["results"]], [0, 2, "auto"])
        self.assertEqual((told["nodes"], told["link"], told["simulate_link"]), (2, "tcp", "rtt=200us"))
        self.assertEqual(told["assume_acceptance"], 1)
        plain, two, _ = told["results"]
        self.assertEqual((plain["drafted"], plain["ratio"], plain["step_ratio"]), (0, 1, 1))
        self.assertEqual(len(two["rounds"]), 2)
        self.assertEqual(two["accepted"], sum(two["accepted_per_position"]))
        self.assertAlmostEqual(two["tokens_per_step"], 23 / (two["steps"] - 1), places=6)
        self.assertAlmostEqual(two["step_s"], two["draft_s"] + two["verify_s"], places=9)
        self.assertGreater(plain["exchange_s"], 200e-6)
        # What waits is part of a step; the prompt's waiting is no decode step's.
        for depth in told["results"]:
            self.assertLess(depth["exchange_s"] + depth["draft_s"], depth["step_s"])
        # The same seed, the same luck: forced acceptance does not depend on when it was measured.
        again = paceline_json("bench", "draft", WITH_MTP, "--draft", 2, "--assume-acceptance", "0.5", "--tokens", 24, "--rounds", 1, "--json")
        once_more = paceline_json("bench", "draft", WITH_MTP, "--depths", "4,2", "--assume-acceptance", "0.5", "--tokens", 24, "--rounds", 1,
                                  "--json")
        counts = ("steps", "drafted", "accepted", "accepted_per_position")
        self.assertEqual([again["results"][1][c] for c in counts], [once_more["results"][2][c] for c in counts])
        none = paceline_json("bench", "draft", WITH_MTP, "--depths", "1", "--assume-acceptance", "0", "--tokens", 12, "--rounds", 1,
                             "--json")
        self.assertEqual(none["results"][1]["accepted"], 0)
        self.assertGreater(none["results"][1]["drafted"], 0)
        self.assertEqual(none["results"][1]["acceptance_per_position"], [0])

    def test_a_layer_with_a_hole_is_refused_where_drafting_was_ordered(self):
        missing = mtp_tensors(WITH_MTP)[0]
        with tempfile.TemporaryDirectory() as folder:
            without_tensor(WITH_MTP, missing, folder)
            ids = pathlib.Path(folder) / "ids"
            ids.write_text("[1, 2, 3]")
            run = ("generate", folder, "--prompt-tokens-json", ids, "--max-tokens", 4, "--ignore-eos")
            status, _, err = paceline(*run, "--draft", 2)
            self.assertNotEqual(status, 0)
            self.assertIn("LOAD-004", err)
            self.assertIn(missing, err)
            self.assertNotIn("loaded", err)
            status, _, err = paceline(*run)
            self.assertEqual(status, 0, err)
            self.assertIn("warning", err)
            self.assertIn(missing, err)

    def test_counts_of_a_text_are_a_draft_vocabulary(self):
        with tempfile.TemporaryDirectory() as folder:
            text, counts = pathlib.Path(folder) / "text", pathlib.Path(folder) / "counts"
            text.write_text("Nora counts the boats. Nora counts the boats again.")
            status, out, err = paceline("tokenize", DEMO_MODEL, "--text-file", text, "--counts", counts)
            self.assertEqual((status, out), (0, ""), err)
            ids = paceline_json("tokenize", DEMO_MODEL, "--text-file", text, "--json")["token_ids"]
            told = json.loads(counts.read_text())
            self.assertEqual(told, {str(i): ids.count(i) for i in set(ids)})
            # A draft vocabulary changes what is drafted, never what is said.
            ask = (ids, "--max-tokens", 32, "--temperature", 0)
            plain = cli_generate(*ask, "--draft", "off", target=DEMO_MODEL)
            few = cli_generate(*ask, "--draft", 3, "--drafter", "mtp", "--draft-vocab", counts, target=DEMO_MODEL)
            self.assertEqual(few["token_ids"], plain["token_ids"])
            self.assertGreater(few["speculation"]["drafted"], 0)


if __name__ == "__main__":
    main()
