#!/usr/bin/env python3
"""Write a small random-weight model of each family with what Hugging Face transformers computes with it.

usage: record_models.py OUT_DIR [--seed N] [--variant base|alt]

OUT_DIR/<family>/ is a model folder (config.json, generation_config.json, model.safetensors in float32) with
  expected.json         prompts [[token id]], greedy [[token id]]: 24 greedy continuation ids a prompt
  expected.safetensors  logits.I: [len(prompt I), vocab] float32, teacher-forced, eager attention
OUT_DIR/warpers.safetensors, warpers.json: logits [8, 1000], prev_ids [8, 40], and for each logits processor the
  log-softmax of what it leaves (-inf: removed); the JSON lists the tensors' names.
"""
import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def configs(variant):
    """(folder, config) of every family; `alt` has odd sizes and one key head."""
    alt = variant == "alt"
    base = dict(
        vocab_size=301 if alt else 320,
        hidden_size=96 if alt else 64,
        intermediate_size=136 if alt else 160,
        num_hidden_layers=4 if alt else 3,
        num_attention_heads=6 if alt else 4,
        num_key_value_heads=1 if alt else 2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    head_dim = 16 if alt else 32
    llama3 = dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    sliding, full = "sliding_attention", "full_attention"
    yield "qwen3", Qwen3Config(
        **base, head_dim=head_dim, tie_word_embeddings=not alt, rope_theta=1e4 if alt else 1e6
    )
    yield "qwen2", Qwen2Config(**base, tie_word_embeddings=alt, rope_theta=1e6)
    yield "llama", LlamaConfig(**base, tie_word_embeddings=not alt, rope_theta=5e5)
    yield "llama3_rope", LlamaConfig(**base, tie_word_embeddings=alt, rope_theta=5e5, rope_scaling=llama3)
    yield "mistral_window", MistralConfig(
        **base, head_dim=head_dim, sliding_window=7 if alt else 16, tie_word_embeddings=False
    )
    yield "gemma3", Gemma3TextConfig(
        **base,
        head_dim=head_dim,
        sliding_window=9 if alt else 16,
        layer_types=[sliding, full] * 2 if alt else None,
    )
    # The default pattern makes every sixth layer global, so three layers are all local: this one mixes them,
    # with the rope of the larger Gemma 3 models, their kind of query scale, and a final soft-cap.
    yield "gemma3_mixed", Gemma3TextConfig(
        **base,
        head_dim=head_dim,
        sliding_window=9,
        layer_types=([sliding, full] * 2)[: base["num_hidden_layers"]],
        query_pre_attn_scalar=24,
        final_logit_softcapping=5.0,
        rope_parameters={
            full: dict(rope_type="linear", factor=8.0, rope_theta=1e6),
            sliding: dict(rope_type="default", rope_theta=1e4),
        },
    )


def randomise(model, gemma):
    """The default initialisation is nearly silent: make every path matter."""
    for name, p in model.named_parameters():
        if "norm" in name:
            p.copy_(torch.randn_like(p) * 0.2 + (0.0 if gemma else 1.0))
        elif name.endswith("bias"):
            p.normal_(0, 0.2)
        else:
            p.normal_(0, 0.12)


def record_model(folder, name, config, seed):
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model, "gemma" in name)
    os.makedirs(folder, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)

    generator = torch.Generator().manual_seed(seed + 7)
    lengths = (1, 5, 16, 17, 33, 97)
    prompts = [torch.randint(3, config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    logits, greedy = {}, []
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        logits[f"logits.{i}"] = model(ids).logits[0].float().contiguous()
        for _ in range(24):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        greedy.append(ids[0, len(prompt) :].tolist())
    save_file(logits, os.path.join(folder, "expected.safetensors"))
    with open(os.path.join(folder, "expected.json"), "w") as f:
        versions = dict(dtype="float32", transformers=transformers.__version__)
        json.dump(dict(prompts=prompts, greedy=greedy, **versions), f)


def record_warpers(out, seed):
    generator = torch.Generator().manual_seed(seed + 11)
    logits = torch.randn(8, 1000, generator=generator) * 3
    logits[1, 10:20] = logits[1].max() + 1  # a row with ties
    ids = torch.randint(0, 1000, (8, 40), generator=generator)
    cases = {
        "temperature_0.6": [TemperatureLogitsWarper(0.6)],
        "top_k_50": [TopKLogitsWarper(50)],
        "top_k_1": [TopKLogitsWarper(1)],
        "top_p_0.9": [TopPLogitsWarper(0.9)],
        "top_p_0.1": [TopPLogitsWarper(0.1)],
        "min_p_0.05": [MinPLogitsWarper(0.05)],
        "repetition_1.3": [RepetitionPenaltyLogitsProcessor(1.3)],
        "temperature_0.7_top_k_40_top_p_0.8": [
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(40),
            TopPLogitsWarper(0.8),
        ],
    }
    tensors = {"logits": logits, "prev_ids": ids}
    for name, processors in cases.items():
        processed = logits.clone()
        for process in processors:
            processed = process(ids, processed)
        tensors[name] = torch.log_softmax(processed, -1).contiguous()
    save_file(tensors, os.path.join(out, "warpers.safetensors"))
    with open(os.path.join(out, "warpers.json"), "w") as f:
        json.dump(sorted(tensors), f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", choices=["base", "alt"], default="base")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_grad_enabled(False)
    os.makedirs(args.out, exist_ok=True)
    for name, config in configs(args.variant):
        record_model(os.path.join(args.out, name), name, config, args.seed)
    record_warpers(args.out, args.seed)


main()
