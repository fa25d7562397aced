"""The examples of the pages about the HTTP API, run as they stand against the head that docs/API.md describes."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import harness
from harness import ROOT, Head

PAGES = {"API.md": 8, "BENCHMARKING.md": 3, "CHAT.md": 1}  # and how many examples each has at least
ADDRESS, GRPC_ADDRESS = "127.0.0.1:8000", "127.0.0.1:50051"  # of the pages
# The command is called by its name, and examples find the stubs where the harness has put them.
ENVIRONMENT = {**os.environ, "PATH": f"{pathlib.Path(harness.BINARY).parent}:{os.environ['PATH']}", "PYTHONPATH": sys.path[0]}


class Examples(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, model=ROOT / "deploy/demo-model").wait_ready()
        cls.addClassCleanup(cls.head.close)

    def run_page(self, page):
        examples = re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
        self.assertGreaterEqual(len(examples), PAGES[page])
        for language, code in examples:
            with self.subTest(code.strip().splitlines()[0]):
                self.assertTrue(ADDRESS in code or GRPC_ADDRESS in code)
                code = code.replace(ADDRESS, self.head.http).replace(GRPC_ADDRESS, self.head.grpc)
                if language == "sh":
                    self.assertTrue(shutil.which("curl"), "curl is missing: `./run test` installs it")
                    command = ["bash", "-euo", "pipefail", "-c", code.replace("curl -s", "curl -sS --fail-with-body")]
                else:
                    command = [sys.executable, "-c", code]
                done = subprocess.run(command, capture_output=True, text=True, timeout=harness.PATIENCE, env=ENVIRONMENT)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertTrue(done.stdout.strip())

    def test_all(self):
        for page in PAGES:
            with self.subTest(page):
                self.run_page(page)


if __name__ == "__main__":
    harness.main()
