"""llama.cpp's side of bench/llama_cpp.py: one process, one JSON line.

    python3 -P llama_peer.py MODEL.gguf --threads 2 --rows 1,4,8 --prefill 512      steps, as `paceline bench step` takes them
    python3 -P llama_peer.py MODEL.gguf --threads 2 --first-token                   loads, decodes one token, ends

Runs on the bindings of llama-cpp-python with the library that LLAMA_CPP_LIB_PATH names. Every row of a step gets its logits.
-P: the folder of this file has a llama_cpp.py of its own.
"""
import argparse
import ctypes
import json
import random
import statistics
import sys
import time

from llama_cpp import llama_cpp as api

CONTEXT, WARM, STEPS = 64, 3, 15  # as cli/bench_step.cc


class Model:
    def __init__(self, path, threads):
        self.quiet = api.llama_log_callback(lambda level, text, user: None)  # held: the library keeps the pointer
        api.llama_log_set(self.quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 2048, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit("llama.cpp cannot make a context")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.draw = random.Random(7)
        self.position = 0

    def clear(self):
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        self.position = 0

    def step(self, rows, wanted):
        """Seconds of one step of `rows` random tokens, the last `wanted` with logits."""
        batch = api.llama_batch_init(rows, 0, 1)
        batch.n_tokens = rows
        for i in range(rows):
            batch.token[i] = self.draw.randrange(self.vocab)
            batch.pos[i] = self.position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= rows - wanted
        begin = time.perf_counter()
        status = api.llama_decode(self.context, batch)
        api.llama_synchronize(self.context)
        seconds = time.perf_counter() - begin
        api.llama_batch_free(batch)
        if status:
            sys.exit(f"llama_decode returned {status}")
        self.position += rows
        return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--first-token", action="store_true")
    options = parser.parse_args()
    model = Model(options.model, options.threads)
    if options.first_token:
        model.step(1, 1)
        print("{}")
        return
    results = []
    for rows in map(int, options.rows.split(",")):
        model.clear()
        model.step(CONTEXT, 1)
        seconds = [model.step(rows, rows) for _ in range(WARM + STEPS)][WARM:]
        results.append({"rows": rows, "kind": "decode" if rows == 1 else "verify", "step_s": statistics.median(seconds)})
    if options.prefill:
        seconds = []
        for _ in range(3):
            model.clear()
            seconds.append(model.step(options.prefill, 1))
        results.append({"rows": options.prefill, "kind": "prefill", "step_s": statistics.median(seconds[1:])})
    for result in results:
        result["tokens_per_second"] = result["rows"] / result["step_s"]
    print(json.dumps({"results": results, "system": api.llama_print_system_info().decode()}))


if __name__ == "__main__":
    main()
