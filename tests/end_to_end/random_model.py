"""Small random checkpoints of any shape the families allow: head counts, widths, layer patterns, experts and formats are
drawn from a seed. Their weights mean nothing; they exist so that one model can be computed in many ways.
"""
import json
import pathlib
import random
import struct

import numpy as np

FLOATS = {"bf16": "BF16", "f16": "F16", "f32": "F32"}


def to_bf16(x):
    """fp32 to the bits of BF16, nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    """tensors: name -> (dtype of the header, array)."""
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(array.tobytes())


class RandomModel:
    def __init__(self, seed):
        self.pick = random.Random(seed)
        self.draw = np.random.default_rng(seed)
        self.tensors = {}
        self.true_zeros = self.pick.random() < 0.5  # gptq_v2
        self.uniform = self.any_format() if self.pick.random() < 0.6 else None
        self.build()

    def any_format(self):
        int4 = ("int4", self.pick.choice([32, 64, 128, -1]), self.pick.random() < 0.5, self.pick.random() < 0.25)
        return self.pick.choice(["bf16", "bf16", "f32", "f16", "fp8", int4])

    # ---- tensors
    def put_float(self, name, values, dtype="bf16"):
        array = to_bf16(values) if dtype == "bf16" else values.astype({"f16": np.float16, "f32": np.float32}[dtype])
        self.tensors[name] = (FLOATS[dtype], array)

    def normal(self, *shape, scale=1.0):
        return (self.draw.standard_normal(shape) * scale).astype(np.float32)

    def linear(self, name, outputs, inputs, fmt=None):
        fmt = fmt or self.uniform or self.any_format()
        if fmt == "fp8":
            # Every code up to 2.0 in magnitude, subnormals among them; larger ones would drown the rest.
            codes = self.draw.integers(0, 0x41, (outputs, inputs)) | self.draw.integers(0, 2, (outputs, inputs)) << 7
            blocks = (-(-outputs // 128), -(-inputs // 128))
            self.tensors[name + ".weight"] = ("F8_E4M3", codes.astype(np.uint8))
            self.put_float(name + ".weight_scale_inv", np.abs(self.normal(*blocks, scale=0.3 / inputs ** 0.5)) + 1e-3,
                           self.pick.choice(["bf16", "f32"]))
        elif isinstance(fmt, tuple):
            self.int4(name, outputs, inputs, *fmt[1:])
        else:
            self.put_float(name + ".weight", self.normal(outputs, inputs, scale=inputs ** -0.5), fmt)

    def int4(self, name, outputs, inputs, group, symmetric, act_order):
        size = inputs if group == -1 else group
        if inputs % size or inputs % 8 or outputs % 8:
            return self.linear(name, outputs, inputs, "bf16")
        groups = inputs // size
        codes = self.draw.integers(0, 16, (inputs, outputs)).astype(np.uint32)
        zeros = np.full((groups, outputs), 8, np.uint32) if symmetric else self.draw.integers(0, 16, (groups, outputs)).astype(np.uint32)
        stored = zeros if self.true_zeros else (zeros - 1) & 15
        self.tensors[name + ".qweight"] = ("I32", sum(codes[j::8] << np.uint32(4 * j) for j in range(8)).view(np.int32))
        self.tensors[name + ".qzeros"] = ("I32", sum(stored[:, j::8] << np.uint32(4 * j) for j in range(8)).view(np.int32))
        self.put_float(name + ".scales", np.abs(self.normal(groups, outputs, scale=0.2 / inputs ** 0.5)) + 1e-3, "f16")
        if act_order and group != -1:
            g_idx = np.arange(inputs) // size
            self.draw.shuffle(g_idx)
            self.tensors[name + ".g_idx"] = ("I32", g_idx.astype(np.int32))

    def norm(self, name, width, mean=0.0):
        self.put_float(name, mean + self.normal(width, scale=0.1))

    # ---- the model
    def build(self):
        pick = self.pick
        plain = pick.random() < 0.25  # qwen3_moe
        head_dim, kv_heads = pick.choice([16, 32, 48, 64, 80, 128, 256]), pick.choice([1, 2, 3])
        heads, hidden = kv_heads * pick.choice([1, 2, 3, 4]), pick.choice([40, 64, 96, 128, 136, 200, 256, 264, 384])
        width = pick.choice([8, 24, 40, 96, 128, 136, 192, 256, 320, 384, 520])
        experts = pick.choice([2, 3, 5, 7, 8, 17])
        key_heads, key_dim, value_dim = pick.choice([1, 2, 3]), pick.choice([8, 16, 24, 32, 48, 64]), pick.choice([8, 16, 24, 32, 48, 72])
        value_heads, shared, taps = key_heads * pick.choice([1, 2, 3]), pick.choice([8, 40, 64, 136]), 4
        layers = pick.randint(1, 4)
        types = [pick.choice(["linear_attention", "full_attention"]) for _ in range(layers)]
        part = pick.choice([0.25, 0.5, 1.0])
        self.vocab = pick.choice([97, 130, 257, 333, 1030])
        self.config = {
            "vocab_size": self.vocab, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "num_experts": experts,
            "num_experts_per_tok": pick.randint(1, min(experts, 4)), "moe_intermediate_size": width, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "attention_bias": False,
            "tie_word_embeddings": pick.random() < 0.3}
        if plain:
            self.config.update(model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], norm_topk_prob=True,
                               rope_theta=10000.0, decoder_sparse_step=1, mlp_only_layers=[], intermediate_size=64)
        else:
            self.config.update(
                model_type="qwen3_5_moe_text", architectures=["Qwen3_5MoeForCausalLM"], layer_types=types,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": part},
                linear_num_key_heads=key_heads, linear_num_value_heads=value_heads, linear_key_head_dim=key_dim,
                linear_value_head_dim=value_dim, linear_conv_kernel_dim=taps, shared_expert_intermediate_size=shared)
        if self.true_zeros:
            self.config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False,
                                                  "desc_act": True, "checkpoint_format": "gptq_v2"}
        prefix = "model." if plain or pick.random() < 0.5 else "model.language_model."
        mean = 1.0 if plain else 0.0
        self.put_float(prefix + "embed_tokens.weight", self.normal(self.vocab, hidden, scale=0.5))
        self.norm(prefix + "norm.weight", hidden, mean)
        if not self.config["tie_word_embeddings"]:
            self.linear("lm_head", self.vocab, hidden, pick.choice(list(FLOATS)))
        for i in range(layers):
            p = f"{prefix}layers.{i}."
            self.norm(p + "input_layernorm.weight", hidden, mean)
            self.norm(p + "post_attention_layernorm.weight", hidden, mean)
            if plain or types[i] == "full_attention":
                a = p + "self_attn."
                self.linear(a + "q_proj", heads * (1 if plain else 2) * head_dim, hidden)
                self.linear(a + "k_proj", kv_heads * head_dim, hidden)
                self.linear(a + "v_proj", kv_heads * head_dim, hidden)
                self.linear(a + "o_proj", hidden, heads * head_dim)
                self.norm(a + "q_norm.weight", head_dim, mean)
                self.norm(a + "k_norm.weight", head_dim, mean)
            else:
                a, channels = p + "linear_attn.", 2 * key_heads * key_dim + value_heads * value_dim
                self.linear(a + "in_proj_qkv", channels, hidden)
                self.linear(a + "in_proj_z", value_heads * value_dim, hidden)
                self.linear(a + "in_proj_a", value_heads, hidden, "bf16")
                self.linear(a + "in_proj_b", value_heads, hidden, "bf16")
                self.linear(a + "out_proj", hidden, value_heads * value_dim)
                self.put_float(a + "conv1d.weight", self.normal(channels, 1, taps, scale=0.5))
                self.put_float(a + "A_log", self.normal(value_heads), "f32")
                self.put_float(a + "dt_bias", self.normal(value_heads))
                self.put_float(a + "norm.weight", 1 + self.normal(value_dim, scale=0.1), "f32")
            mlp = p + "mlp."
            self.linear(mlp + "gate", experts, hidden, "bf16")
            fmt = self.uniform or self.any_format()
            for e in range(experts):
                x = f"{mlp}experts.{e}."
                self.linear(x + "gate_proj", width, hidden, fmt)
                self.linear(x + "up_proj", width, hidden, fmt if pick.random() < 0.9 else "bf16")
                self.linear(x + "down_proj", hidden, width, fmt if pick.random() < 0.9 else "f16")
            if not plain:
                self.linear(mlp + "shared_expert.gate_proj", shared, hidden)
                self.linear(mlp + "shared_expert.up_proj", shared, hidden)
                self.linear(mlp + "shared_expert.down_proj", hidden, shared)
                self.linear(mlp + "shared_expert_gate", 1, hidden, "bf16")

    def write(self, folder):
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(self.config))
        write_safetensors(folder / "model.safetensors", self.tensors)
        tokens = [self.pick.randrange(self.vocab) for _ in range(self.pick.choice([1, 33, 70, 129]))]
        (folder / "tokens.json").write_text(json.dumps(tokens))
        return folder / "tokens.json"
