"""Head and worker on two hosts (network namespaces joined by a veth pair): the same tokens as one process over tcp and
ucx, and no plain connection off the machine unless the operator asks for it. Skips (status 77) where namespaces cannot
be made."""
import os
import pathlib
import subprocess
import sys

import harness
from harness import Head, Worker, cli_generate, paceline

SCRIPT = pathlib.Path(__file__).with_name("netns.sh")
PREFIX = f"pl{os.getpid()}"
HEAD, WORKER = f"{PREFIX}-1", f"{PREFIX}-2"
HEAD_ADDRESS = "10.88.0.1"
# Between namespaces of one machine UCX would take shared memory, which no two machines have.
UCX = {"UCX_TLS": "tcp", "UCX_WARN_UNUSED_ENV_VARS": "n"}


def ucx_is_built():
    _, _, err = paceline("generate", harness.MODEL, "--prompt", "a", "--max-tokens", 1, "--local-workers", 1, "--link", "ucx",
                         env={"UCX_TLS": "tcp"})
    return "NET-007" not in err


class TwoHosts(harness.TestCase):
    def same_tokens(self, link, env):
        alone = cli_generate(None, "--max-tokens", 32, "--temperature", 0)["token_ids"]
        for port, placement in ((7400, "contiguous"), (7401, "sliced")):
            with self.subTest(placement=placement):
                head = self.start(Head, "--nodes", 2, "--host", HEAD_ADDRESS, "--link", link, "--insecure-links",
                                  "--placement", placement, netns=HEAD, env=env, join_port=port)
                worker = self.start(Worker, f"{HEAD_ADDRESS}:{port}", netns=WORKER, env=env)
                head.wait_ready()
                there = cli_generate(None, "--max-tokens", 32, "--temperature", 0, target=f"grpc://{head.grpc}", netns=HEAD)
                self.assertEqual(there["token_ids"], alone)
                self.assertEqual(there["cluster"]["nodes"], 2)
                status = harness.paceline_json("status", f"grpc://{head.grpc}", "--json", netns=HEAD)
                self.assertTrue(all(n["leaves"] > 0 for n in status["nodes"]), status)
                self.assertTrue(status["nodes"][1]["address"].startswith("10.88.0.2"), status["nodes"][1])
                self.assertIn(head.terminate(), (0, 143))
                worker.close()

    def test_tcp(self):
        self.same_tokens("tcp", {})

    def test_ucx(self):
        if not ucx_is_built():
            self.skipTest("this binary was built without UCX")
        self.same_tokens("ucx", UCX)

    def test_plain_links_off_the_machine_are_refused(self):
        head = self.start(Head, "--nodes", 2, "--host", HEAD_ADDRESS, netns=HEAD, join_port=7402)
        self.assertEqual(head.wait(), 6, head.stderr)
        self.assertIn("NET-003", head.stderr)
        self.assertIn("--insecure-links", head.stderr)


def main():
    if os.geteuid() != 0:
        print("skipped: making network namespaces needs root")
        sys.exit(77)
    made = subprocess.run(["bash", SCRIPT, "up", PREFIX], capture_output=True, text=True)
    try:
        if made.returncode:
            print(f"skipped: this machine makes no network namespaces: {made.stderr.strip()}")
            sys.exit(77)
        harness.main()
    finally:
        subprocess.run(["bash", SCRIPT, "down", PREFIX], check=False)


if __name__ == "__main__":
    main()
