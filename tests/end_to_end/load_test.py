#!/usr/bin/env python3
"""Loading from outside: whichever way the files are read, the same model comes out, and what a person or a script is told
about it.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PACELINE", str(ROOT / "build/release/bin/paceline"))
DEMO = ROOT / "deploy/demo-model"
CASES = [DEMO, *sorted((ROOT / "tests/goldens/cases").iterdir())]
TIMEOUT = 120


def paceline(*args, env=None):
    return subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT, env={**os.environ, **(env or {})})


class Loading(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.tokens = pathlib.Path(self.folder.name, "tokens.json")
        self.tokens.write_text("[3, 17, 5, 9, 60, 2, 41, 17, 17, 8]")

    def score(self, model, *flags, env=None):
        done = paceline("score", model, "--tokens-json", self.tokens, "--json", *flags, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["logits_hash"], done.stderr

    def test_every_way_of_reading_gives_the_same_model(self):
        for model in CASES:
            with self.subTest(model=model.name):
                hashes = {io: self.score(model, "--load-io", io)[0] for io in ("auto", "threads", "buffered")}
                self.assertEqual(len(set(hashes.values())), 1, hashes)
                whole, _ = self.score(model, "--backend", "reference", "--load-io", "buffered")
                self.assertEqual(whole, hashes["auto"])
                split, _ = self.score(model, "--local-workers", 1, "--placement", "sliced", env={"PACELINE_LOAD_IO": "threads"})
                self.assertEqual(split, whole)

    def test_a_log_says_how_far_it_is(self):
        _, log = self.score(DEMO)
        self.assertRegex(log, r"(?m)^head: loaded 100 % of \d+\.\d MB")
        self.assertNotIn("note:", self.score(DEMO, "--load-io", "buffered")[1])

    def test_a_cut_file_is_named_with_its_tensor(self):
        model = pathlib.Path(self.folder.name, "model")
        shutil.copytree(DEMO, model)
        weights = max(model.glob("*.safetensors"), key=lambda f: f.stat().st_size)
        os.truncate(weights, weights.stat().st_size - 7)
        done = paceline("score", model, "--tokens-json", self.tokens)
        self.assertEqual(done.returncode, 8, done.stderr)
        self.assertIn("LOAD-003", done.stderr)
        self.assertIn(weights.name, done.stderr)

    def test_bench_load(self):
        done = paceline("bench", "load", DEMO, "--json", "--threads", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        out = json.loads(done.stdout)
        files = sum(f.stat().st_size for f in DEMO.glob("*.safetensors"))
        self.assertGreater(out["bytes"], 0.9 * files)
        self.assertLessEqual(out["bytes"], files)
        self.assertEqual(out["direct"]["bytes"], files)
        self.assertEqual(out["reads_by_jobs"], 0)
        self.assertAlmostEqual(out["gbps"], out["bytes"] / out["seconds"] / 1e9)
        self.assertAlmostEqual(out["share_of_direct"], out["gbps"] / out["direct_gbps"])
        self.assertGreater(out["weight_bytes"], 0)
        self.assertLessEqual(out["peak_rss_bytes"], 1.02 * out["weight_bytes"] + 300e6)
        self.assertEqual([s["name"] for s in out["stages"]],
                         ["headers", "load", "compute threads waiting for reads", "compute threads packing"])
        table = paceline("bench", "load", DEMO, "--load-io", "buffered")
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertIn("threads, page cache", table.stdout)
        self.assertIn("| load |", table.stdout)


if __name__ == "__main__":
    unittest.main()
