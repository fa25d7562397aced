"""Metrics of a head with two workers and the demo model after traffic, and of a worker's own page: docs/METRICS.md names every one
of them and no other, the dashboard asks for nothing that is not there, and the numbers are those of the traffic.
"""
import json
import re
import urllib.error
import urllib.request

import harness
from harness import ROOT, Client, Head, Worker, api

DEMO = ROOT / "deploy/demo-model"
DASHBOARD = ROOT / "deploy/grafana/paceline.json"
TURN = "<|im_start|>user\nPlease write a story about Nora and a wrong turn.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Scrape:
    """Text format 0.0.4, taken apart."""

    def __init__(self, text):
        self.types, self.helps, self.samples = {}, {}, []
        for line in text.splitlines():
            if found := re.fullmatch(r"# TYPE (\S+) (\w+)", line):
                assert found[1] not in self.types, f"{found[1]} twice"
                self.types[found[1]] = found[2]
            elif found := re.fullmatch(r"# HELP (\S+) (.+)", line):
                self.helps[found[1]] = found[2]
            else:
                found = re.fullmatch(r'([\w:]+)(?:\{(.*)\})? (\S+)', line)
                assert found, f"not a sample: {line!r}"
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                self.samples.append((found[1], labels, float(found[3])))

    def family(self, sample):
        """The metric that a sample belongs to."""
        for end in ("_bucket", "_sum", "_count"):
            if sample.endswith(end) and self.types.get(sample.removesuffix(end)) == "histogram":
                return sample.removesuffix(end)
        return sample

    def labels(self):
        """Metric -> the sets of labels its samples have."""
        out = {name: set() for name in self.types}
        for name, labels, _ in self.samples:
            out[self.family(name)].add(frozenset(labels) - {"le"})
        return out

    def value(self, name, **labels):
        found = [value for sample, has, value in self.samples if sample == name and labels.items() <= has.items()]
        assert found, f"no sample {name}{labels}"
        return sum(found)


def documented():
    """Of the head's page and of a worker's: metric -> (type, labels) as docs/METRICS.md has them."""
    out, worker = {}, {}
    for line in (ROOT / "docs/METRICS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        name = cells[0].strip("`")
        if len(cells) == 5:  # the last two tables
            kind, labels = cells[1], set(re.findall(r"`(\w+)`", cells[3]))
            ours = name.startswith("paceline_")
            if not name.startswith("paceline_worker_"):
                out[name] = (kind, labels | ({"model"} if ours else set()))
            if name != "paceline_build_info":
                worker[name] = (kind, labels | ({"model", "node"} if ours else set()))
            continue
        vllm, kind, labels = cells[1], cells[2], set(re.findall(r"`(\w+)`", cells[4]))
        out["paceline_" + name] = (kind, labels | {"model"})
        if vllm:
            out["vllm:" + name] = (kind, (labels - {"source"}) | {"engine", "model_name"})
    return out, worker


def page(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=harness.PATIENCE) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Scrape(answer.read().decode())


class Metrics(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 1, "--nodes", 3, "--max-sequences", 4, "--max-waiting", 1, "--draft", 3, model=DEMO)
        cls.addClassCleanup(cls.head.close)
        cls.worker = Worker(cls.head.wait_stderr(r"workers join at (\S+)\n")[1], "--metrics-port", 0, model=DEMO)
        cls.addClassCleanup(cls.worker.close)
        cls.worker_page = cls.worker.wait_stderr(r"metrics at http://(\S+)/metrics")[1]
        cls.head.wait_ready()
        cls.client = Client(cls.head.grpc)
        cls.addClassCleanup(cls.client.close)
        cls.before = cls.scrape()
        cls.traffic()
        cls.after = cls.scrape()

    @classmethod
    def scrape(cls):
        return page(cls.head.http)

    @classmethod
    def post(cls, path, body):
        request = urllib.request.Request(f"http://{cls.head.http}{path}", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=harness.PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    @classmethod
    def traffic(cls):
        def request(tokens, **kwargs):
            return harness.request(text=TURN, max_tokens=tokens, temperature=0, **kwargs)
        for _ in range(3):
            cls.client.generate(request(40))
        assert cls.post("/v1/completions", {"prompt": TURN, "max_tokens": 8, "ignore_eos": True}) == 200
        assert cls.post("/v1/completions", {"prompt": TURN, "temperature": -1}) == 400
        assert cls.post("/v1/completions", {"prompt": TURN, "max_tokens": 10**6}) == 400
        assert cls.post("/nothing", {}) == 404
        # Four run, one waits, one is too many; then all leave.
        streams = [cls.client.stream(request(4000)) for _ in range(4)]
        for stream in streams:
            assert next(stream).WhichOneof("event") == "started"
        streams.append(cls.client.stream(request(4000)))  # not before: calls overtake each other
        while cls.client.control.GetLoad(harness.control_pb2.GetLoadRequest()).waiting < 1:
            pass
        try:
            cls.client.generate(request(1))
            raise AssertionError("six at a time were taken")
        except harness.grpc.RpcError as error:
            assert error.code() == harness.grpc.StatusCode.RESOURCE_EXHAUSTED
        # The one that waits leaves first: it would start where another had left.
        streams.pop().cancel()
        while cls.client.control.GetLoad(harness.control_pb2.GetLoadRequest()).waiting > 0:
            pass
        for stream in streams:
            stream.cancel()
        cls.client.wait_idle()

    def grown(self, name, **labels):
        return self.after.value(name, **labels) - (
            self.before.value(name, **labels) if any(s[0] == name and labels.items() <= s[1].items() for s in self.before.samples) else 0)

    def test_the_page_and_the_head_name_the_same(self):
        of_head, of_worker = documented()
        self.compare(of_head, self.after)
        self.assertGreater(len(of_head), 80)
        self.compare(of_worker, page(self.worker_page))
        self.assertGreater(len(of_worker), 20)

    def compare(self, names, scrape):
        there, labels = scrape.types, scrape.labels()
        self.assertEqual(sorted(set(names) - set(there)), [], "documented, but not there")
        self.assertEqual(sorted(set(there) - set(names)), [], "there, but not documented")
        for name, (kind, wanted) in names.items():
            with self.subTest(name):
                self.assertEqual(there[name], kind)
                self.assertEqual(labels[name], {frozenset(wanted)})
                self.assertTrue(scrape.helps[name])

    def test_histograms_are_well_formed(self):
        series = {}
        for name, labels, value in self.after.samples:
            if name.endswith("_bucket"):
                key = (name.removesuffix("_bucket"), frozenset((k, v) for k, v in labels.items() if k != "le"))
                series.setdefault(key, []).append((float(labels["le"].replace("+Inf", "inf")), value))
        self.assertGreater(len(series), 30)
        for (name, labels), buckets in series.items():
            with self.subTest(name):
                self.assertEqual(buckets, sorted(buckets))
                self.assertEqual([count for _, count in buckets], sorted(count for _, count in buckets))
                self.assertEqual(buckets[-1][0], float("inf"))
                self.assertEqual(buckets[-1][1], self.after.value(name + "_count", **dict(labels)))

    def test_the_numbers_are_those_of_the_traffic(self):
        for prefix in ("vllm:", "paceline_"):
            with self.subTest(prefix):
                for reason, count in (("length", 4), ("abort", 5), ("error", 0)):
                    self.assertEqual(self.grown(prefix + "request_success_total", finished_reason=reason), count, reason)
                self.assertEqual(self.grown(prefix + "e2e_request_latency_seconds_count"), 4)
                self.assertEqual(self.grown(prefix + "request_generation_tokens_sum"), 3 * 40 + 8)
                started = self.grown(prefix + "time_to_first_token_seconds_count")
                self.assertTrue(4 <= started <= 8, started)
                generated = self.grown(prefix + "generation_tokens_total")
                self.assertEqual(self.grown(prefix + "inter_token_latency_seconds_count"), generated - started)
                self.assertGreater(self.grown(prefix + "spec_decode_num_accepted_tokens_total"), 0)
                self.assertEqual(self.grown(prefix + "prompt_tokens_total") % started, 0)
        self.assertEqual(self.grown("paceline_requests_refused_total", reason="QUEUE_FULL"), 1)
        self.assertEqual(self.grown("paceline_requests_refused_total", reason="INVALID_FIELD"), 1)
        self.assertEqual(self.grown("paceline_requests_refused_total", reason="CONTEXT_LENGTH_EXCEEDED"), 1)
        self.assertEqual(self.grown("paceline_api_calls_total", api="http", call="/v1/completions", code="400"), 2)
        self.assertEqual(self.grown("paceline_api_calls_total", api="http", call="none", code="404"), 1)
        generate = "paceline.inference.v1.InferenceService/Generate"
        self.assertEqual(self.grown("paceline_api_calls_total", api="grpc", call=generate, code="OK"), 3)
        self.assertEqual(self.grown("paceline_api_calls_total", api="grpc", call=generate, code="RESOURCE_EXHAUSTED"), 1)
        self.assertEqual(self.grown("paceline_api_calls_total", api="grpc", call=generate + "Stream", code="CANCELLED"), 5)

    def test_the_cluster_is_seen(self):
        for rank in ("0", "1", "2"):
            self.assertEqual(self.after.value("paceline_node_up", rank=rank), 1)
            self.assertLess(self.after.value("paceline_node_last_heartbeat_seconds", rank=rank), 10)
        for rank in ("1", "2"):
            for direction in ("sent", "received"):
                self.assertGreater(self.grown("paceline_ep_bytes_total", rank=rank, direction=direction), 1000)
            total = self.after.value("paceline_model_load_total_bytes", rank=rank)
            self.assertEqual(self.after.value("paceline_model_load_bytes", rank=rank), total)
        self.assertGreater(self.grown("paceline_ep_straggler_seconds_total"), 0)
        self.assertEqual(self.after.value("paceline_state", state="ready"), 1)
        steps = self.grown("paceline_step_seconds_count")
        self.assertGreater(steps, 20)
        # Every step is in some phase, and phases are parts of steps.
        phases, whole = self.grown("paceline_ep_phase_seconds_sum"), self.grown("paceline_step_seconds_sum")
        self.assertAlmostEqual(phases, whole, delta=0.02 * whole)
        for phase in ("attention", "dispatch", "expert", "combine", "head", "draft"):
            self.assertGreater(self.grown("paceline_ep_phase_seconds_count", phase=phase), 0, phase)
        for name, _, value in self.after.samples:
            if name == "paceline_expert_load_imbalance":
                self.assertTrue(1 <= value <= 3, value)
        self.assertGreater(self.after.value("process_resident_memory_bytes"), 1e6)
        self.assertGreater(self.after.value("process_open_fds"), 5)
        self.assertGreater(self.grown("process_cpu_seconds_total"), 0)

    def test_links_are_measured(self):
        for rank in ("1", "2"):
            rtt = self.after.value("paceline_link_rtt_seconds", rank=rank, interface="lo")
            self.assertTrue(1e-6 < rtt < 1, rtt)
            for direction in ("sent", "received"):
                rate = self.after.value("paceline_link_bandwidth_bytes", rank=rank, interface="lo", direction=direction)
                self.assertTrue(1e6 < rate < 1e12, rate)

    def test_a_worker_counts_what_it_does(self):
        def leaves(scrape, name):
            return scrape.value(name, node="alpha")
        before = page(self.worker_page)
        self.assertEqual(leaves(before, "paceline_worker_leaves"), leaves(self.after, "paceline_node_leaves"))
        self.assertEqual(leaves(before, "paceline_worker_experts"), leaves(self.after, "paceline_node_experts"))
        self.assertEqual(before.value("paceline_worker_serving"), 1)
        self.assertEqual(before.value("paceline_worker_memberships_total"), 1)
        self.assertIn(before.value("paceline_worker_rank"), (1, 2))
        self.assertEqual(before.value("paceline_worker_epoch"), 1)
        self.assertEqual(before.value("paceline_worker_load_bytes"), before.value("paceline_worker_load_total_bytes"))
        self.client.generate(harness.request(text=TURN, max_tokens=10, temperature=0))
        now = page(self.worker_page)
        for name in ("frames_total", "rows_total", "compute_seconds_total"):
            name = "paceline_worker_" + name
            self.assertGreater(now.value(name, operation="experts"), before.value(name, operation="experts"), name)
            self.assertEqual(now.value(name, operation="matmul_rows"), 0)
        name = "paceline_worker_link_bytes_total"
        self.assertGreater(now.value(name), before.value(name) + 1000)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{self.worker_page}/", timeout=harness.PATIENCE)
        self.assertEqual(caught.exception.code, 404)

    def test_a_port_that_is_taken(self):
        port = self.worker_page.rpartition(":")[2]
        status, _, err = harness.paceline("worker", "--join", "127.0.0.1:1", "--model", DEMO, "--metrics-port", port)
        self.assertEqual(status, 2, err)
        self.assertIn("CFG-002", err)
        self.assertIn("--metrics-port", err)

    def test_phases_of_a_request(self):
        answer = self.client.generate(harness.request(text=TURN, max_tokens=10, temperature=0))
        phases = dict(answer.completed.timings.phase_seconds)
        self.assertLessEqual({"attention", "dispatch", "expert", "combine", "head"}, set(phases))
        timings = answer.completed.timings
        self.assertLess(sum(phases.values()), timings.prefill_seconds + timings.decode_seconds + 1)

    def test_all_ways_give_the_same_text(self):
        over_grpc = Scrape(self.client.control.GetMetrics(harness.control_pb2.GetMetricsRequest(), timeout=harness.PATIENCE).text)
        status, out, err = harness.paceline("status", f"grpc://{self.head.grpc}", "--metrics")
        self.assertEqual(status, 0, err)
        for other in (over_grpc, Scrape(out)):
            self.assertEqual(other.types, self.after.types)

    def test_the_dashboard_asks_for_what_is_there(self):
        dashboard = json.loads(DASHBOARD.read_text())
        expressions, panels, rows = [], dashboard["panels"], [p["title"] for p in dashboard["panels"] if p["type"] == "row"]
        self.assertLessEqual({"Traffic", "Latency", "Speculation", "Cluster", "Cache"}, set(rows))
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        cells = set()
        for panel in panels:
            at = panel["gridPos"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(own & cells, f"{panel['title']} lies over another panel")
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells |= own
            if panel["type"] != "row":
                self.assertTrue(panel["description"] and panel["targets"], panel["title"])
                expressions += [target["expr"] for target in panel["targets"]]
        expressions += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
        there = {}
        for name, labels, _ in self.after.samples + page(self.worker_page).samples:
            there.setdefault(name, set()).update(labels)
        used = set()
        for text in expressions:
            for name, matchers in re.findall(r"\b((?:paceline_|vllm:|process_)\w+)(?:\{([^}]*)\})?", text):
                self.assertIn(name, there, text)
                used.add(name)
                for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
                    if label != "job":  # Prometheus adds it
                        self.assertIn(label, there[name], text)
            for group in re.findall(r"by \(([^)]*)\)", text):
                names = re.findall(r"\b((?:paceline_|vllm:|process_)\w+)", text)
                for label in filter(None, re.split(r"\s*,\s*", group)):
                    self.assertTrue(any(label in there[name] for name in names), f"{label} in {text}")
        self.assertGreater(len(used), 40)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                self.assertIn("paceline_build_info", variable["query"]["query"])

    def test_without_the_names_of_others(self):
        head = self.start(Head, "--metrics-compat", "none", model=DEMO).wait_ready()
        with urllib.request.urlopen(f"http://{head.http}/metrics", timeout=harness.PATIENCE) as answer:
            bare = Scrape(answer.read().decode())
        self.assertFalse([name for name in bare.types if name.startswith("vllm:")])
        self.assertEqual(set(bare.types), {name for name in self.after.types if not name.startswith("vllm:")})


if __name__ == "__main__":
    harness.main()
