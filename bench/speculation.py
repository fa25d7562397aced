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
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
RTTS = ["0us", "20us", "100us", "500us", "2ms"]
DEPTHS = "0,1,2,3,4,5,6,auto"
REAL = "real"


def microseconds(rtt):
    """'500us' -> 500.0."""
    for unit, factor in (("us", 1), ("ms", 1000)):
        if rtt.endswith(unit):
            return float(rtt[: -len(unit)]) * factor
    sys.exit(f"a round trip is a number of us or ms, not {rtt!r}")


def measure(options, model, acceptance, rtt):
    command = [options.binary, "bench", "draft", model, "--local-workers", "1", "--link", options.link, "--depths", DEPTHS,
               "--tokens", options.tokens, "--rounds", options.rounds, "--json"]
    if microseconds(rtt) > 0:
        command += ["--simulate-link", f"rtt={rtt}"]
    if acceptance != REAL:
        command += ["--assume-acceptance", acceptance]
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} exited with {done.returncode}")
    return json.loads(done.stdout)


def by_depth(run):
    return {str(result["depth"]): result for result in run["results"]}


def best_static(results):
    return max((result for depth, result in results.items() if depth != "auto"), key=lambda r: r["tokens_per_second"])


def groups(runs):
    """Runs of one model and one acceptance, in the order they came."""
    found = {}
    for run in runs:
        found.setdefault((run["model"], run["acceptance"]), []).append(run)
    return found


def speed_table(runs):
    depths = list(by_depth(runs[0]))
    lines = ["| round trip | " + " | ".join("auto" if d == "auto" else f"K = {d}" for d in depths) + " | auto / best K |",
             "|---|" + "---|" * (len(depths) + 1)]
    for run in runs:
        results = by_depth(run)
        best = best_static(results)
        share = f'{results["auto"]["tokens_per_second"] / best["tokens_per_second"]:.2f}' if "auto" in results else "-"
        cells = [f'{r["tokens_per_second"]:.1f} ({r["ratio"]:.2f}x)' for r in results.values()]
        lines.append(f'| {run["rtt"]} | ' + " | ".join(cells) + f" | {share} |")
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
        lines.append(f"| {depth} | {per_step:.2f} | {added(depth) * 1e3:.2f} ms | {share:.2f} | {share * per_step:.2f} |")
    return lines


def step_table(run):
    lines = ["| K | step | of plain | draft | verify | exchange | tokens per step | accepted by position |", "|---|---|---|---|---|---|---|---|"]
    for depth, r in by_depth(run).items():
        positions = " ".join(f'{n / r["verify_steps"]:.2f}' for n in r["accepted_per_position"]) if r["verify_steps"] else "-"
        lines.append(f'| {depth} | {r["step_s"] * 1e3:.2f} ms | {r["step_ratio"]:.2f}x | {r["draft_s"] * 1e3:.2f} ms '
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
        extra = added_time(group)
        if extra:
            lines += [*extra, ""]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/bin/paceline"))
    parser.add_argument("--model", default=str(ROOT / "deploy/demo-model"))
    parser.add_argument("--slice", help="directory of a slice of a large model; forced acceptance only: its weights are random")
    parser.add_argument("--acceptance", default=f"0.6,0.8,{REAL}", help="comma separated")
    parser.add_argument("--rtts", default=",".join(RTTS), help="comma separated")
    parser.add_argument("--link", default="tcp")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
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
    else:
        runs = []
        plan = [(options.model, acceptance) for acceptance in options.acceptance.split(",")]
        if options.slice:
            plan += [(options.slice, acceptance) for acceptance in options.acceptance.split(",") if acceptance != REAL]
        for model, acceptance in plan:
            for rtt in options.rtts.split(","):
                print(f"{pathlib.Path(model).name}: acceptance {acceptance}, round trip {rtt}", file=sys.stderr, flush=True)
                runs.append({**measure(options, model, acceptance, rtt), "rtt": rtt, "acceptance": acceptance})
                write(runs, options.out)
    write(runs, options.out)
    plot(runs, options.out / "speculation.png")
    print(markdown(runs))


if __name__ == "__main__":
    main()
