#!/usr/bin/env python3
"""Write small random-weight models of each family with the outputs Hugging Face transformers gives for them.

usage: record_models.py OUT_DIR --seed N [--variant base|alt]

OUT_DIR/<family>/config.json, model.safetensors (float32), expected.json:
  prompts: [[token ids]], logits: file expected.safetensors, one [len, vocab] float32 tensor per prompt ("logits.i"),
  greedy: 24 greedy continuation ids per prompt (float32 weights, eager attention).
OUT_DIR/warpers.safetensors + warpers.json: logits and the filtered log-probabilities of temperature, top-k, top-p,
  min-p and repetition penalty as transformers' logits processors give them.
"""
import argparse, json, os, torch
from safetensors.torch import save_file
import transformers
from transformers import (Qwen3Config, Qwen2Config, LlamaConfig, MistralConfig, Gemma3TextConfig, AutoModelForCausalLM)
from transformers.generation.logits_process import (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
                                                    MinPLogitsWarper, RepetitionPenaltyLogitsProcessor)

def configs(v):
    alt = v == "alt"
    base = dict(vocab_size=320 if not alt else 301, hidden_size=64 if not alt else 96, intermediate_size=160 if not alt else 136,
                num_hidden_layers=3 if not alt else 4, num_attention_heads=4 if not alt else 6, num_key_value_heads=2 if not alt else 1,
                max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    hd = 32 if not alt else 16
    yield "qwen3", Qwen3Config(**base, head_dim=hd, tie_word_embeddings=not alt, rope_theta=1e6 if not alt else 1e4)
    yield "qwen2", Qwen2Config(**base, tie_word_embeddings=alt, rope_theta=1e6)
    yield "llama", LlamaConfig(**base, tie_word_embeddings=not alt, rope_theta=5e5)
    yield "llama3_rope", LlamaConfig(**base, tie_word_embeddings=alt, rope_theta=5e5, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))
    yield "mistral_window", MistralConfig(**base, head_dim=hd, sliding_window=16 if not alt else 7, tie_word_embeddings=False)
    yield "gemma3", Gemma3TextConfig(**base, head_dim=hd, sliding_window=16 if not alt else 9,
                                     layer_types=None if not alt else ["sliding_attention", "full_attention"] * 2)

def main():
    ap = argparse.ArgumentParser(); ap.add_argument("out"); ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--variant", default="base"); a = ap.parse_args()
    torch.manual_seed(a.seed); torch.set_grad_enabled(False); os.makedirs(a.out, exist_ok=True)
    for name, cfg in configs(a.variant):
        cfg._attn_implementation = "eager"
        m = AutoModelForCausalLM.from_config(cfg).float().eval()
        for n, p in m.named_parameters():   # default init is nearly silent: make every path matter
            if "norm" in n: p.copy_(torch.randn_like(p) * 0.2 + (0.0 if "gemma" in name else 1.0))
            elif n.endswith("bias"): p.normal_(0, 0.2)
            else: p.normal_(0, 0.12)
        d = os.path.join(a.out, name); os.makedirs(d, exist_ok=True)
        m.save_pretrained(d, safe_serialization=True)
        g = torch.Generator().manual_seed(a.seed + 7)
        prompts = [torch.randint(3, cfg.vocab_size, (n,), generator=g).tolist() for n in (1, 5, 16, 17, 33, 97)]
        out, greedy = {}, []
        for i, p in enumerate(prompts):
            ids = torch.tensor([p]); out[f"logits.{i}"] = m(ids).logits[0].float().contiguous()
            for _ in range(24): ids = torch.cat([ids, m(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
            greedy.append(ids[0, len(p):].tolist())
        save_file(out, os.path.join(d, "expected.safetensors"))
        json.dump(dict(prompts=prompts, greedy=greedy, dtype="float32", transformers=transformers.__version__), open(os.path.join(d, "expected.json"), "w"))
    g = torch.Generator().manual_seed(a.seed + 11)
    x = torch.randn(8, 1000, generator=g) * 3; x[1, 10:20] = x[1].max() + 1  # a row with ties
    ids = torch.randint(0, 1000, (8, 40), generator=g); t, meta = {"logits": x, "prev_ids": ids}, {}
    cases = {"temperature_0.6": TemperatureLogitsWarper(0.6), "top_k_50": TopKLogitsWarper(50), "top_k_1": TopKLogitsWarper(1),
             "top_p_0.9": TopPLogitsWarper(0.9), "top_p_0.1": TopPLogitsWarper(0.1), "min_p_0.05": MinPLogitsWarper(0.05),
             "repetition_1.3": RepetitionPenaltyLogitsProcessor(1.3)}
    for n, f in cases.items(): t[n] = torch.log_softmax(f(ids, x.clone()), -1)
    y = TopPLogitsWarper(0.8)(ids, TopKLogitsWarper(40)(ids, TemperatureLogitsWarper(0.7)(ids, x.clone())))
    t["temperature_0.7_top_k_40_top_p_0.8"] = torch.log_softmax(y, -1)
    save_file({k: v.contiguous() for k, v in t.items()}, os.path.join(a.out, "warpers.safetensors"))
    json.dump(sorted(t), open(os.path.join(a.out, "warpers.json"), "w"))

main()
