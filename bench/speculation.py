#!/usr/bin/env python3
"""Speculation against the round trip: tokens per second at every depth, over simulated links, on two ranks.

Runs `paceline bench draft` for each model, acceptance and round trip; writes OUT/speculation.json (everything
that was measured), OUT/speculation.md (the tables of docs/PERFORMANCE.md) and OUT/speculation.png.

    build/venv/bin/python3 -m pip install -r bench/requirements.txt
    build/venv/bin/python3 bench/speculation.py
    build/venv/bin/python3 bench/speculation.py --slice DIR     # and a slice of a large model, made by
        build/release/bin/paceline synth DIR --like Qwen3.5-122B-A10B --layers 4 --mtp

`./run bench` does the first two. --plot FILE draws a JSON file again and measures nothing.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RTTS = ["0us", "20us", "100us", "500us", "2ms"]
DEPTHS = "0,1,2,3,4,5,6,auto"
REAL = "real"
NOTHING = "0"  # acceptance: drafting that never pays
WIRE_RTTS = ["0us", "500us"]
# Every expert on the worker. Of a small model's few experts a plain row may want only the head's own, and would then
# cross no wire at all in that layer: what a round trip adds to a token is measured where every layer pays it.
ALL_REMOTE = {"rules": [{"holders": [1]}]}


def microseconds(rtt):
    """'500us' -> 500.0."""
    for unit, factor in (("us", 1), ("ms", 1000)):
        if rtt.endswith(unit):
            return float(rtt[: -len(unit)]) * factor
    sys.exit(f"a round trip is a number of us or ms, not {rtt!r}")


def rounds_for(options, model, rtt):
    """Steps without a wire take 0.3 ms on the demo model, and a round vanishes in what else a machine does: more of them."""
    if options.rounds:
        return options.rounds
    if model != options.model:
        return 3
    return next((rounds for longest, rounds in ((0, 15), (20, 11), (100, 9), (500, 5)) if microseconds(rtt) <= longest), 3)


def measure(options, model, acceptance, rtt, rules=None):
    command = [options.binary, "bench", "draft", model, "--local-workers", "1", "--link", options.link, "--depths",
               DEPTHS.removesuffix(",auto") if rules else DEPTHS,
               "--tokens", options.tokens, "--rounds", rounds_for(options, model, rtt), "--json"]
    if microseconds(rtt) > 0:
        command += ["--simulate-link", f"rtt={rtt}"]
    if acceptance != REAL:
        command += ["--assume-acceptance", acceptance]
    if rules:
        command += ["--placement", rules]
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} exited with {done.returncode}")
    return json.loads(done.stdout)


def by_depth(run):
    return {str(result["depth"]): result for result in run["results"]}


def best_static(results):
    """Depth of the best fixed K, plain among them, by the median over rounds."""
    return max((depth for depth in results if depth != "auto"), key=lambda depth: results[depth]["ratio"])


def paired(results, one, other):
    """Median over rounds of `one`'s speed over `other`'s in the same round."""
    return statistics.median(ratios(results, one, other))


def ratios(results, one, other):
    return [a / b for a, b in zip(results[one]["rounds"], results[other]["rounds"])]


def standard_error(values):
    """Of their median, as if they were normal."""
    return 1.2533 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def groups(runs):
    """Runs of one model and one acceptance, in the order they came; those with every expert remote are apart."""
    found = {}
    for run in runs:
        if run.get("all_remote"):
            continue
        found.setdefault((run["model"], run["acceptance"]), []).append(run)
    return found


def speed_table(runs):
    depths = list(by_depth(runs[0]))
    lines = ["| round trip | " + " | ".join("auto" if d == "auto" else f"K = {d}" for d in depths) + " | auto / best K | auto / plain |",
             "|---|" + "---|" * (len(depths) + 2)]
    for run in runs:
        results = by_depth(run)
        shares = "- | -"
        if "auto" in results:
            best = best_static(results)
            error = standard_error(ratios(results, "auto", best))
            shares = f'{paired(results, "auto", best):.3f} +- {error:.3f} (K = {best}) | {paired(results, "auto", "0"):.3f}'
        cells = [f'{r["tokens_per_second"]:.1f} ({r["ratio"]:.3f}x)' for r in results.values()]
        lines.append(f'| {run["rtt"]} | ' + " | ".join(cells) + f" | {shares} |")
    return lines


def added_time(runs, rtt="500us"):
    """What a round trip of `rtt` adds to a token's time, drafted over plain, times tokens per step: 1 is what theory says."""
    with_rtt = next((run for run in runs if run["rtt"] == rtt), None)
    without = next((run for run in runs if microseconds(run["rtt"]) == 0), None)
    if not with_rtt or not without:
        return []
    far, near = by_depth(with_rtt), by_depth(without)

    def added(depth):
        return 1 / far[depth]["tokens_per_second"] - 1 / near[depth]["tokens_per_second"]

    lines = [f"| K | tokens per step | time per token added by {rtt} | over plain | x tokens per step |", "|---|---|---|---|---|"]
    for depth in (d for d in far if d != "auto"):
        per_step = far[depth]["tokens_per_step"]
        share = added(depth) / added("0") if added("0") > 0 else float("nan")
        lines.append(f"| {depth} | {per_step:.2f} | {added(depth) * 1e3:.3f} ms | {share:.3f} | {share * per_step:.3f} |")
    return lines


def step_table(run):
    lines = ["| K | step | of plain | draft | verify | exchange | tokens per step | accepted by position |", "|---|---|---|---|---|---|---|---|"]
    for depth, r in by_depth(run).items():
        positions = " ".join(f"{share:.2f}" for share in r["acceptance_per_position"]) or "-"
        lines.append(f'| {depth} | {r["step_s"] * 1e3:.2f} ms | {r["step_ratio"]:.3f}x | {r["draft_s"] * 1e3:.2f} ms '
                     f'| {r["verify_s"] * 1e3:.2f} ms | {r["exchange_s"] * 1e3:.2f} ms | {r["tokens_per_step"]:.2f} | {positions} |')
    return lines


def markdown(runs):
    lines = []
    for (model, acceptance), group in groups(runs).items():
        first = group[0]
        named = "real acceptance" if acceptance == REAL else f"acceptance forced to {acceptance}"
        lines += [f"### {model}, {named}", "",
                  f'Tokens per second (and over plain), {first["nodes"]} ranks over {first["link"]}, {first["threads"]} thread(s) each, '
                  f'{first["cpu"]}.', "", *speed_table(group), ""]
        remote = [run for run in runs if run.get("all_remote") and (run["model"], run["acceptance"]) == (model, acceptance)]
        extra = added_time(remote)
        if extra:
            lines += ["With every expert on the worker, so that every layer crosses the wire:", "", *extra, ""]
        lines += [f'Steps at a round trip of {first["rtt"]}:', "", *step_table(first), ""]
    return "\n".join(lines)


def plot(runs, file):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    found = groups(runs)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5.2 * columns, 4 * rows), squeeze=False)
    for axis in axes.flat[len(found):]:
        axis.remove()
    for axis, ((model, acceptance), group) in zip(axes.flat, found.items()):
        # A symmetric logarithmic scale has room for no round trip at all.
        x = [microseconds(run["rtt"]) for run in group]
        depths = list(by_depth(group[0]))
        colours = pyplot.get_cmap("viridis")
        for i, depth in enumerate(depths):
            y = [by_depth(run)[depth]["tokens_per_second"] for run in group]
            if depth == "auto":
                axis.plot(x, y, "k--", linewidth=2, label="auto")
            else:
                axis.plot(x, y, marker="o", markersize=3, color=colours(i / len(depths)), label="plain" if depth == "0" else f"K = {depth}")
        axis.set_xscale("symlog", linthresh=20)
        axis.set_xticks(x, [run["rtt"] for run in group])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("round trip (simulated)")
        axis.set_ylabel("tokens per second")
        axis.set_title(f"{model}, {'real text' if acceptance == REAL else f'acceptance {acceptance}'}")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def write(runs, out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "speculation.json").write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    (out / "speculation.md").write_text(markdown(runs) + "\n")


def measure_all(options):
    """Every point; written after each, so that a run that is interrupted leaves what it had."""
    plan = [(options.model, acceptance) for acceptance in options.acceptance.split(",")]
    if options.slice:
        plan += [(options.slice, acceptance) for acceptance in options.acceptance.split(",") if acceptance != REAL]
    runs = []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as rules:
        json.dump(ALL_REMOTE, rules)
        rules.flush()
        points = [(model, acceptance, rtt, None) for model, acceptance in plan for rtt in options.rtts.split(",")]
        points += [(model, acceptance, rtt, rules.name) for model, acceptance in plan if acceptance != NOTHING for rtt in WIRE_RTTS]
        for model, acceptance, rtt, placement in points:
            where = ", every expert remote" if placement else ""
            print(f"{pathlib.Path(model).name}: acceptance {acceptance}, round trip {rtt}{where}", file=sys.stderr, flush=True)
            run = measure(options, model, acceptance, rtt, placement)
            runs.append({**run, "rtt": rtt, "acceptance": acceptance, "all_remote": placement is not None})
            write(runs, options.out)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/bin/paceline"))
    parser.add_argument("--model", default=str(ROOT / "deploy/demo-model"))
    parser.add_argument("--slice", help="directory of a slice of a large model; forced acceptance only: its weights are random")
    parser.add_argument("--acceptance", default=f"0.6,0.8,{NOTHING},{REAL}", help="comma separated")
    parser.add_argument("--rtts", default=",".join(RTTS), help="comma separated")
    parser.add_argument("--link", default="tcp")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, help="of each point; by default the more the shorter its steps are: 3 to 15")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/speculation")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw this JSON file again, measure nothing")
    options = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        sys.exit(f"matplotlib is missing: build/venv/bin/python3 -m pip install -r {ROOT / 'bench/requirements.txt'}, "
                 "and run this with build/venv/bin/python3")
    if options.plot:
        runs = json.loads(options.plot.read_text())["runs"]
        options.out.mkdir(parents=True, exist_ok=True)
    else:
        runs = measure_all(options)
    plot(runs, options.out / "speculation.png")
    print(markdown(runs))


if __name__ == "__main__":
    main()
