#!/usr/bin/env python3
"""Makes deploy/demo-model from the trained BF16 folder: INT4 in AutoRound's tensor layout, the rest as stored.

    tools/make_demo_model.py BF16_FOLDER deploy/demo-model

The BF16 weights lie on a symmetric INT4 grid (group 128 along the input, codes -7..7), so rounding to nearest with the
scale absmax / 7 recovers the codes exactly. The program checks that: a single weight that differs ends it with an error,
and the output is only kept when every dequantised value equals its BF16 original. Needs numpy.
"""
import argparse
import json
import pathlib
import re
import shutil
import struct
import sys

import numpy as np

GROUP = 128
LIMIT = 16 << 20
# The tensors that the INT4 checkpoint stores in INT4, by the rule of the training programs (quant.py).
INT4_PARTS = ("experts.", "shared_expert.", "in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj",
              "mtp.fc.")
COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "eval_prompts.json")


def is_int4(name):
    return any(part in name for part in INT4_PARTS) and "layernorm" not in name


def read_safetensors(path):
    """Name -> (dtype, shape, bytes)."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    data = memoryview(raw)[8 + length:]
    header.pop("__metadata__", None)
    return {n: (e["dtype"], e["shape"], data[e["data_offsets"][0]:e["data_offsets"][1]]) for n, e in header.items()}


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            out.write(data)


def from_bf16(shape, data):
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)


def quantise(name, w):
    """w [N, K] fp32 -> codes 0..15 [N, K], scales F16 [K / 128, N]. Exact, or an error."""
    n, k = w.shape
    if k % GROUP or n % 8:
        sys.exit(f"{name}: [{n}, {k}] does not fit groups of {GROUP} inputs and words of 8 outputs")
    groups = w.reshape(n, k // GROUP, GROUP)
    scales = (np.abs(groups).max(2) / np.float32(7)).astype(np.float16)
    used = scales.astype(np.float32)[:, :, None]
    codes = np.rint(groups / np.where(used == 0, 1, used))
    wrong = int((codes * used != groups).sum())
    if wrong:
        sys.exit(f"{name}: {wrong} of {w.size} weights are not on the INT4 grid with F16 scales")
    return (codes + 8).astype(np.uint32).reshape(n, k), np.ascontiguousarray(scales.T)


def pack(codes, scales):
    """GPTQ words: qweight [K / 8, N] with input 8r + j in bits 4j; qzeros [groups, N / 8] hold zero - 1 = 7."""
    n, k = codes.shape
    eight = codes.T.reshape(k // 8, 8, n)
    qweight = np.zeros((k // 8, n), np.uint32)
    for j in range(8):
        qweight |= eight[:, j] << np.uint32(4 * j)
    return {"qweight": ("I32", qweight), "qzeros": ("I32", np.full((k // GROUP, n // 8), 0x77777777, np.uint32)),
            "scales": ("F16", scales)}


def unpack(parts):
    """The layout read back on its own terms: nibbles of the byte stream of each output."""
    words = np.ascontiguousarray(parts["qweight"][1].T)
    raw = words.view(np.uint8)
    codes = np.empty((raw.shape[0], raw.shape[1] * 2), np.int32)
    codes[:, 0::2], codes[:, 1::2] = raw & 15, raw >> 4
    stored = np.ascontiguousarray(parts["qzeros"][1]).view(np.uint8)
    zeros = np.empty((stored.shape[0], stored.shape[1] * 2), np.int32)
    zeros[:, 0::2], zeros[:, 1::2] = (stored & 15) + 1, (stored >> 4) + 1
    scales = parts["scales"][1].astype(np.float32)
    group = np.arange(codes.shape[1]) // GROUP
    return (codes - zeros.T[:, group]) * scales.T[:, group]


def linears(name, shape, w):
    """The linear layers in one BF16 tensor: fused experts become one layer per expert and projection."""
    if name.endswith("experts.gate_up_proj"):
        half = shape[1] // 2
        for e in range(shape[0]):
            stem = f"{name[:-len('gate_up_proj')]}{e}."
            yield stem + "gate_proj", w[e, :half]
            yield stem + "up_proj", w[e, half:]
    elif name.endswith("experts.down_proj"):
        for e in range(shape[0]):
            yield f"{name[:-len('down_proj')]}{e}.down_proj", w[e]
    else:
        yield name[:-len(".weight")], w


def quantization_config():
    full = {"bits": 16, "data_type": "float"}
    return {"quant_method": "auto-round", "bits": 4, "group_size": GROUP, "sym": True, "data_type": "int",
            "packing_format": "auto_round:auto_gptq", "iters": 0, "block_name_to_quantize": "model.layers,mtp",
            "extra_config": {r".*in_proj_[ab]$": full, r".*mlp\.gate$": full, r".*shared_expert_gate$": full}}


def card(text):
    """The BF16 card, cut to what is true of this copy."""
    head, rest = text.split("## Shape", 1)
    shape, rest = rest.split("## INT4 and BF16 say the same", 1)
    accuracy = rest.split("## Accuracy and acceptance", 1)[1].split("## Training", 1)[0]
    limits = rest.split("## Limits", 1)[1].split("## Files and use", 1)[0]
    shape = re.sub(r"\| file \|.*\n", "| file | `model.safetensors`: INT4 in AutoRound's layout (symmetric, group 128, F16 scales, one tensor "
                   "set per expert and projection); `in_proj_a`, `in_proj_b`, router, shared-expert gate, norms, convolution, embedding "
                   "and head in BF16; `A_log` and `linear_attn.norm.weight` in F32 |\n", shape)
    shape = re.sub(r"\| config \|.*\n", "| config | flat text config, `Qwen3_5MoeForCausalLM`, with a `quantization_config` |\n", shape)
    head = re.sub(r"Everything it learnt comes from the grammar in `make_corpus.py` and the tables in `tables.py`; no outside text was used.",
                  "Everything it learnt comes from a generated grammar; no outside text was used.", head)
    accuracy = re.sub(r" \(`--fresh 30 --seed 77`\)", "", accuracy)
    accuracy = accuracy.replace("Greedy, FP32, transformers.", "Measured on the BF16 file: greedy, FP32, transformers.")
    return (head.replace("# Paceline demo model", "# Paceline demo model, INT4") + "## Shape" + shape +
            "## The same numbers as the BF16 file\n\nThe model was trained so that these weights lie on a symmetric INT4 grid (codes -7..7, scales of five "
            "significant\nbits). `tools/make_demo_model.py` rounds them to nearest with the scale absmax / 7, without tuning, and checks that every\n"
            "dequantised weight equals its BF16 original. Any difference between the two copies is rounding of activations, never the\nweights.\n\n"
            "## Accuracy and acceptance" + accuracy + "## Limits" + limits.rstrip() + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()

    out, quantised = {}, 0
    for name, (dtype, shape, data) in read_safetensors(args.source / "model.safetensors").items():
        if not is_int4(name):
            out[name] = (dtype, shape, data)
            continue
        if dtype != "BF16":
            sys.exit(f"{name}: expected BF16, found {dtype}")
        for base, w in linears(name, shape, from_bf16(shape, data)):
            parts = pack(*quantise(base, w))
            if not (unpack(parts) == w).all():
                sys.exit(f"{base}: the packed layer does not read back as the BF16 weights")
            quantised += w.size
            for suffix, (kind, array) in parts.items():
                out[f"{base}.{suffix}"] = (kind, array.shape, array.tobytes())

    args.out.mkdir(parents=True, exist_ok=True)
    write_safetensors(args.out / "model.safetensors", dict(sorted(out.items())))
    config = json.loads((args.source / "config.json").read_text())
    config["quantization_config"] = quantization_config()
    (args.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in COPIED:
        shutil.copyfile(args.source / name, args.out / name)
    (args.out / "MODEL_CARD.md").write_text(card((args.source / "MODEL_CARD.md").read_text()))
    total = sum(f.stat().st_size for f in args.out.iterdir())
    if total > LIMIT:
        sys.exit(f"{args.out} has {total} bytes; at most {LIMIT} may be shipped")
    print(f"{args.out}: {len(out)} tensors, {quantised} weights in INT4, every one equal to its BF16 original; {total} bytes")


if __name__ == "__main__":
    main()
