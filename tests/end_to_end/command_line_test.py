"""The command line as scripts meet it: exit statuses, signals, pipes, what is refused before a model is loaded."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile

from harness import BINARY, MODEL, ROOT, SLOW_LINK, Process, TestCase, cli_generate, main, paceline

DEMO_MODEL = ROOT / "deploy/demo-model"
STAND_IN = os.environ.get("STAND_IN", str(ROOT / "build/release/stand_in"))  # for NCCL and the CUDA driver


class CommandLine(TestCase):
    def generate(self, *args, env=None):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write("[1, 2, 3]")
            file.flush()
            return paceline("generate", MODEL, "--prompt-tokens-json", file.name, *args, env=env)

    def test_a_wrong_request_is_refused_before_the_model_is_loaded(self):
        for text, said in (("[1, 2, 99999999]", ("99999999", "index 2")), ("[]", ("no tokens",)), ("[1.5]", ("1.5",))):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                file.write(text)
                file.flush()
                status, out, err = paceline("generate", MODEL, "--prompt-tokens-json", file.name, "--local-workers", 1)
            self.assertEqual((status, out), (2, ""), err)
            for words in said:
                self.assertIn(words, err)
            self.assertNotIn("loaded", err)
        status, _, err = self.generate("--max-tokens", 999999999)
        self.assertEqual(status, 2)
        self.assertIn("REQ-002", err)
        self.assertNotIn("loaded", err)
        with tempfile.TemporaryDirectory() as folder:
            status, _, err = paceline("generate", MODEL, "--prompt-file", folder)
            self.assertEqual(status, 2)
            self.assertIn(f"cannot read {folder}", err)

    def test_nccl_where_it_cannot_be_is_refused_with_and_without_workers(self):
        # A stand-in for NCCL and the driver, so that it does not matter what this machine has.
        for environment, said in (({"STAND_IN_GPUS": "0"}, "no GPU"), ({"STAND_IN_NCCL": "21403"}, "2.14.3")):
            environment = {**environment, "LD_LIBRARY_PATH": STAND_IN}
            for workers in (0, 1):
                status, _, err = self.generate("--link", "nccl", "--local-workers", workers, env=environment)
                self.assertEqual(status, 9)
                self.assertRegex(err, f"NET-007: --link nccl is not to be had on this machine: .*{said}")
                self.assertNotIn("loaded", err)
            status, out, err = paceline("doctor", "--json", env=environment)
            self.assertEqual(status, 0, err)
            self.assertIn(said, json.loads(out)["nccl"]["problem"])

    def test_the_tokens_over_nccl_are_those_of_one_rank(self):
        said = ["--json", "--logits-hash", "--ignore-eos", "--temperature", 0, "--max-tokens", 12]
        alone = self.generate(*said)
        over = self.generate(*said, "--link", "nccl", "--local-workers", 2, env={"LD_LIBRARY_PATH": STAND_IN})
        self.assertEqual((alone[0], over[0]), (0, 0), over[2])
        for key in ("token_ids", "logits_hash"):
            self.assertEqual(json.loads(alone[1])[key], json.loads(over[1])[key])
        self.assertIn("over nccl", over[2])
        # NCCL before 2.30 has no two ranks on one GPU: both are told, and what to do.
        status, _, err = self.generate("--link", "nccl", "--local-workers", 1,
                                       env={"LD_LIBRARY_PATH": STAND_IN, "STAND_IN_GPUS": "1", "STAND_IN_NCCL": "22809"})
        self.assertEqual(status, 9)
        self.assertRegex(err, "NET-007: .*same GPU, which NCCL 2.28.9 refuses; .*CUDA_VISIBLE_DEVICES")

    def test_a_signal_ends_a_run_with_the_status_of_the_signal(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                file.write("[1, 2, 3]")
                file.flush()
                run = self.start(Process, "generate", DEMO_MODEL, "--prompt-tokens-json", file.name, "--ignore-eos",
                                 "--temperature", 0.9, "--local-workers", 1, *SLOW_LINK)
                run.line()  # it generates, and its 32,768 positions take minutes
                run.process.send_signal(number)
                self.assertEqual(run.wait(), 128 + number, run.stderr)
            self.assertEqual(run.family(), [])

    def test_output_that_nobody_can_have_is_no_success(self):
        with open("/dev/full", "w") as full:
            for command in (["generate", MODEL, "--prompt", "a", "--max-tokens", "3"], ["score", "--help"]):
                done = subprocess.run([BINARY, *map(str, command)], stdin=subprocess.DEVNULL, stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=60)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("stdout could not be written", done.stderr)
        # A reader that leaves, as `head -c 10` does: the run ends at once and says nothing.
        run = subprocess.Popen([BINARY, "generate", str(DEMO_MODEL), "--prompt", "a", "--ignore-eos", "--temperature", "0.9"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        run.stdout.read(10)
        run.stdout.close()
        err = run.stderr.read().decode()
        run.stderr.close()
        self.assertEqual(run.wait(timeout=60), 141, err)
        self.assertNotIn("error", err)

    def test_a_model_without_a_tokenizer_takes_and_gives_ids(self):
        with tempfile.TemporaryDirectory() as folder:
            for file in MODEL.iterdir():
                if "token" not in file.name:
                    (pathlib.Path(folder) / file.name).symlink_to(file)
            status, _, err = paceline("generate", folder, "--prompt", "a")
            self.assertEqual(status, 8)
            self.assertIn("tokenizer.json", err)
            self.assertIn("--prompt-tokens-json", err)
            told = cli_generate([1, 2, 3], "--max-tokens", 5, "--temperature", 0, target=folder)
            self.assertIsNone(told["text"])
            ids = pathlib.Path(folder) / "ids"
            ids.write_text("[1, 2, 3]")
            status, out, err = paceline("generate", folder, "--prompt-tokens-json", ids, "--max-tokens", 5, "--temperature", 0,
                                        "--ignore-eos")
            self.assertEqual(status, 0, err)
            self.assertEqual([int(word) for word in out.split()], told["token_ids"])

    def test_hash_is_one_over_ranks_and_links(self):
        alone = cli_generate(None, "--max-tokens", 12, "--seed", 5, "--temperature", 0.9, "--logits-hash")
        self.assertRegex(alone["logits_hash"], "^[0-9a-f]{16}$")
        self.assertIsNone(cli_generate(None, "--max-tokens", 2)["logits_hash"])
        for args in (("--link", "loopback"), ("--link", "tcp", "--head-split")):
            both = cli_generate(None, "--max-tokens", 12, "--seed", 5, "--temperature", 0.9, "--logits-hash",
                                "--local-workers", 2, "--placement", "sliced", *args)
            self.assertEqual((both["logits_hash"], both["token_ids"]), (alone["logits_hash"], alone["token_ids"]))

    def test_pinned_threads_change_no_token_and_need_processors(self):
        text = ("--max-tokens", 6, "--temperature", 0, "--logits-hash", "--threads", 1)
        pinned = cli_generate(None, *text, "--pin", min(os.sched_getaffinity(0)))
        self.assertEqual(pinned["logits_hash"], cli_generate(None, *text)["logits_hash"])
        many = len(os.sched_getaffinity(0))
        for args, words in ((("--threads", many, "--local-workers", 1, "--pin", "auto"), ("--threads", f"have {many}")),
                            (("--pin", "4096"), ("4096", "0-3,8")), (("--pin", "some"), ("some", "auto nor off"))):
            status, _, err = self.generate(*args)
            self.assertEqual(status, 2, err)
            for word in ("CFG-002", *words):
                self.assertIn(word, err)

    def test_a_contract_holds_for_the_whole_cluster_and_native_needs_its_units(self):
        text = ("--max-tokens", 6, "--temperature", 0, "--logits-hash")
        hashes = {cli_generate(None, *text)["logits_hash"]}
        for contract in (("--activations", "int8"), ("--isa", "amx-emulated", "--float-math", "native")):
            alone = cli_generate(None, *text, *contract)
            self.assertNotIn(alone["logits_hash"], hashes)
            hashes.add(alone["logits_hash"])
            both = cli_generate(None, *text, *contract, "--local-workers", 1, "--placement", "sliced")
            self.assertEqual(both["logits_hash"], alone["logits_hash"])
            self.assertEqual(both["cluster"]["fingerprint"], alone["cluster"]["fingerprint"])
        status, _, err = self.generate("--isa", "avx2", "--float-math", "native")
        self.assertEqual(status, 9)
        for words in ("DEV-001", "AMX", "portable", "--isa amx-emulated"):
            self.assertIn(words, err)


if __name__ == "__main__":
    main()
