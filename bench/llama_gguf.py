"""A GGUF of random weights with the shapes of `paceline synth --like Qwen3.5-122B-A10B`, for llama.cpp beside us.

    llama_gguf.py OUT.gguf [--layers 4] [--mtp]

Routed experts are Q4_0 (4.5 bits), every other matrix Q8_0 (8.5 bits), routers, norms and vectors F32: the nearest a GGUF comes
to the hybrid format (INT4 g128 experts, 8-bit projections and head). One block scale per matrix keeps activations near unit size;
routers are drawn wide enough that rows go to many experts. Needs the package gguf.
"""
import argparse

import gguf
import numpy

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 3072, 32, 2, 256
KEY_HEADS, VALUE_HEADS, GDN_DIM, TAPS = 16, 64, 128, 4
EXPERTS, TOP_K, COLUMNS, VOCAB = 256, 8, 1024, 248320
CONTEXT, ROPE_BASE, ROPE_DIMS, FULL_EVERY = 262144, 1e7, 64, 4
ARCHITECTURE = "qwen35moe"

Q4, Q8, F32 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
CODE_DEVIATION = {Q4: 4.6, Q8: 73.9}  # of uniform codes
HALF_BYTES = 2  # a block of either type begins with its scale in binary16
PIECE = 1 << 19  # blocks written at once


def attention(block):
    yield f"{block}attn_q.weight", (2 * HEADS * HEAD_DIM, HIDDEN), Q8  # a query and its gate per head
    for name in ("attn_k", "attn_v"):
        yield f"{block}{name}.weight", (KV_HEADS * HEAD_DIM, HIDDEN), Q8
    yield f"{block}attn_output.weight", (HIDDEN, HEADS * HEAD_DIM), Q8
    for name in ("attn_q_norm", "attn_k_norm"):
        yield f"{block}{name}.weight", (HEAD_DIM,), F32


def delta_net(block):
    values = VALUE_HEADS * GDN_DIM
    channels = 2 * KEY_HEADS * GDN_DIM + values
    yield f"{block}attn_qkv.weight", (channels, HIDDEN), Q8
    yield f"{block}attn_gate.weight", (values, HIDDEN), Q8
    yield f"{block}ssm_conv1d.weight", (channels, TAPS), F32
    yield f"{block}ssm_dt.bias", (VALUE_HEADS,), F32
    yield f"{block}ssm_a", (VALUE_HEADS,), F32
    for name in ("ssm_beta", "ssm_alpha"):
        yield f"{block}{name}.weight", (VALUE_HEADS, HIDDEN), Q8
    yield f"{block}ssm_norm.weight", (GDN_DIM,), F32
    yield f"{block}ssm_out.weight", (HIDDEN, values), Q8


def experts(block):
    yield f"{block}ffn_gate_inp.weight", (EXPERTS, HIDDEN), F32
    for name, shape in (("gate", (COLUMNS, HIDDEN)), ("up", (COLUMNS, HIDDEN)), ("down", (HIDDEN, COLUMNS))):
        yield f"{block}ffn_{name}_exps.weight", (EXPERTS, *shape), Q4
        yield f"{block}ffn_{name}_shexp.weight", shape, Q8
    yield f"{block}ffn_gate_inp_shexp.weight", (HIDDEN,), F32


def tensors(layers, mtp):
    """(name, shape with the inputs last, type) in the order of the file."""
    yield "token_embd.weight", (VOCAB, HIDDEN), Q8
    for layer in range(layers + mtp):
        block, drafts = f"blk.{layer}.", layer == layers
        for name in ("attn_norm", "post_attention_norm"):
            yield f"{block}{name}.weight", (HIDDEN,), F32
        yield from attention(block) if drafts or (layer + 1) % FULL_EVERY == 0 else delta_net(block)
        yield from experts(block)
        if drafts:
            yield f"{block}nextn.eh_proj.weight", (HIDDEN, 2 * HIDDEN), Q8
            for name in ("enorm", "hnorm", "shared_head_norm"):
                yield f"{block}nextn.{name}.weight", (HIDDEN,), F32
    yield "output_norm.weight", (HIDDEN,), F32
    yield "output.weight", (VOCAB, HIDDEN), Q8


def stored_shape(shape, kind):
    """The shape in bytes as gguf wants it for quantised tensors."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return (*shape[:-1], shape[-1] // block * size)


def floats(name, shape, draw):
    if name.endswith("ssm_a"):
        return -numpy.exp(draw.normal(0, 1, shape))  # minus the decay rates
    if "norm" in name:
        return numpy.ones(shape)
    return draw.normal(0, 0.05 if "gate_inp" in name else 0.4, shape)


def write_blocks(file, shape, kind, draw):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(numpy.prod(stored_shape(shape, kind))) // size
    blocks = draw.integers(0, 256, (min(count, PIECE), size), dtype=numpy.uint8)
    scale = numpy.float16(1 / shape[-1] ** 0.5 / CODE_DEVIATION[kind])
    blocks[:, :HALF_BYTES] = numpy.frombuffer(scale.tobytes(), numpy.uint8)
    data = blocks.tobytes()
    # Pieces repeat, each beginning elsewhere: no two experts are alike, and drawing eight gigabytes would take minutes.
    shift = 0
    while count > 0:
        part = min(count, len(blocks))
        begin = shift % len(blocks)
        file.write(data[begin * size:(begin + part) * size])
        file.write(data[:max(0, begin + part - len(blocks)) * size])
        count, shift = count - part, shift + 7919


def metadata(writer, layers, mtp):
    for key, value in {
            "block_count": layers + mtp, "context_length": CONTEXT, "embedding_length": HIDDEN, "feed_forward_length": COLUMNS,
            "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "attention.key_length": HEAD_DIM,
            "attention.value_length": HEAD_DIM, "rope.dimension_count": ROPE_DIMS, "expert_count": EXPERTS,
            "expert_used_count": TOP_K, "expert_feed_forward_length": COLUMNS, "expert_shared_feed_forward_length": COLUMNS,
            "ssm.conv_kernel": TAPS, "ssm.inner_size": VALUE_HEADS * GDN_DIM, "ssm.state_size": GDN_DIM,
            "ssm.time_step_rank": VALUE_HEADS, "ssm.group_count": KEY_HEADS, "full_attention_interval": FULL_EVERY}.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", value)
    if mtp:
        writer.add_uint32(f"{ARCHITECTURE}.nextn_predict_layers", mtp)
    writer.add_float32(f"{ARCHITECTURE}.rope.freq_base", ROPE_BASE)
    writer.add_float32(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_array(f"{ARCHITECTURE}.rope.dimension_sections", [11, 11, 10, 0])
    writer.add_file_type(2)
    # A vocabulary of the real size that nobody reads: prompts are ids.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(letters + [f"<{i}>" for i in range(256, VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_bos_token_id(VOCAB - 1)
    writer.add_add_bos_token(False)


def write(path, layers, mtp):
    plan = list(tensors(layers, int(mtp)))
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    metadata(writer, layers, int(mtp))
    for name, shape, kind in plan:
        if kind == F32:
            writer.add_tensor_info(name, shape, numpy.dtype(numpy.float32), 4 * int(numpy.prod(shape)))
        else:
            stored = stored_shape(shape, kind)
            writer.add_tensor_info(name, stored, numpy.dtype(numpy.uint8), int(numpy.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file, align = writer.fout[0], gguf.GGUF_DEFAULT_ALIGNMENT
    draw = numpy.random.default_rng(1)
    for name, shape, kind in plan:
        file.write(bytes(-file.tell() % align))
        if kind == F32:
            file.write(floats(name, shape, draw).astype(numpy.float32).tobytes())
        else:
            write_blocks(file, shape, kind, draw)
    file.write(bytes(-file.tell() % align))
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--mtp", action="store_true")
    options = parser.parse_args()
    write(options.out, options.layers, options.mtp)


if __name__ == "__main__":
    main()
