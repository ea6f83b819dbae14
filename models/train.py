#!/usr/bin/env python3
"""Train the small story model that ships with Lathe (PyTorch on the CPU; nothing is downloaded).

    pip install torch numpy safetensors tokenizers
    python train.py --out stories-2m --tokens 8e6

The text comes from the story grammar (`stories.py`): a fresh story every time, so none is seen twice. The
tokenizer is a byte-level BPE trained on the same kind of text. Hidden matrices are trained with Muon,
embeddings and norms with AdamW, at a constant learning rate that falls linearly to zero over the last
part of the run. Everything is seeded. Writes config.json, model.safetensors (bf16), tokenizer.json,
tokenizer_config.json and generation_config.json, an ordinary Hugging Face folder of a Qwen3 model.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stories import generate

END = "<|endoftext|>"
SPECIAL = [END, "<|pad|>", "<|im_start|>", "<|im_end|>"]
HELD_OUT = 1_000_000_007  # seed of the stories that the loss is measured on


# ------------------------------------------------------------------ text
def train_tokenizer(texts, size):
    """A byte-level BPE, which encodes any text and gives it back unchanged."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    return tok


class Batches:
    """Rows of `context + 1` tokens: whole stories one after another, each row starting where a story starts."""

    def __init__(self, tok, batch, context, seed):
        self.tok, self.batch, self.context = tok, batch, context
        self.end = tok.token_to_id(END)
        self.stories = generate(1 << 60, seed)

    def row(self):
        ids = []
        while len(ids) <= self.context:
            ids += self.tok.encode(next(self.stories)).ids + [self.end]
        return ids[:self.context + 1]

    def next(self):
        x = torch.from_numpy(np.array([self.row() for _ in range(self.batch)], dtype=np.int64))
        return x[:, :-1], x[:, 1:]


# ------------------------------------------------------------------ model
class Block(nn.Module):
    """One Qwen3 decoder layer; the parameter names are Hugging Face's."""

    def __init__(self, c):
        super().__init__()
        h, d = c["hidden_size"], c["head_dim"]
        self.heads, self.kv, self.dim, self.eps = c["num_attention_heads"], c["num_key_value_heads"], d, c["rms_norm_eps"]
        lin = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm = nn.RMSNorm(h, self.eps)
        self.post_attention_layernorm = nn.RMSNorm(h, self.eps)
        self.self_attn = nn.ModuleDict(dict(
            q_proj=lin(h, self.heads * d), k_proj=lin(h, self.kv * d), v_proj=lin(h, self.kv * d), o_proj=lin(self.heads * d, h),
            q_norm=nn.RMSNorm(d, self.eps), k_norm=nn.RMSNorm(d, self.eps)))
        self.mlp = nn.ModuleDict(dict(gate_proj=lin(h, c["intermediate_size"]), up_proj=lin(h, c["intermediate_size"]), down_proj=lin(c["intermediate_size"], h)))

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        a, m = self.self_attn, self.mlp
        y = self.input_layernorm(x)
        q = rope(a["q_norm"](a["q_proj"](y).view(b, t, self.heads, self.dim)), cos, sin).transpose(1, 2)
        k = rope(a["k_norm"](a["k_proj"](y).view(b, t, self.kv, self.dim)), cos, sin).transpose(1, 2)
        v = a["v_proj"](y).view(b, t, self.kv, self.dim).transpose(1, 2)
        g = self.heads // self.kv
        y = F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)
        x = x + a["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        y = self.post_attention_layernorm(x)
        return x + m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class StoryModel(nn.Module):
    """Qwen3 with tied embeddings."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = nn.ModuleDict(dict(
            embed_tokens=nn.Embedding(c["vocab_size"], c["hidden_size"]),
            layers=nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"])),
            norm=nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])))
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = "o_proj" in name or "down_proj" in name
                nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5 * (0.2 if out else 0.5))
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(), c["rope_theta"] ** -(torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]))
        self.register_buffer("cos", angle.cos()[None, :, None], persistent=False)
        self.register_buffer("sin", angle.sin()[None, :, None], persistent=False)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.model["embed_tokens"](ids)
        for layer in self.model["layers"]:
            x = layer(x, self.cos[:, :t], self.sin[:, :t])
        return self.model["norm"](x)

    def loss(self, ids, targets):
        logits = F.linear(self(ids), self.model["embed_tokens"].weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


# ------------------------------------------------------------------ optimiser
def orthogonal(g, steps=4):
    """Newton-Schulz iteration towards the nearest (semi-)orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    wide = x.shape[0] > x.shape[1]
    x = x.T if wide else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.T if wide else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is orthogonalised (Jordan et al., 2024)."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(m, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def held_out_loss(model, batches):
    model.eval()
    with torch.no_grad():
        loss = sum(model.loss(x, y).item() for x, y in batches) / len(batches)
    model.train()
    return loss


# ------------------------------------------------------------------ files
def write_folder(out, model, tok, c):
    """An ordinary Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    dump = lambda name, x: (out / name).write_text(json.dumps(x, indent=2) + "\n", encoding="utf-8")
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors", metadata={"format": "pt"})
    tok.save(str(out / "tokenizer.json"), pretty=False)
    end = tok.token_to_id(END)
    dump("config.json", dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False, attention_dropout=0.0, bos_token_id=None, eos_token_id=end,
        hidden_act="silu", initializer_range=0.02, rope_scaling=None, sliding_window=None, use_sliding_window=False, tie_word_embeddings=True,
        torch_dtype="bfloat16", use_cache=True, **c))
    dump("tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", model_max_length=c["max_position_embeddings"], clean_up_tokenization_spaces=False,
        bos_token=None, eos_token=END, pad_token="<|pad|>", add_bos_token=False))
    dump("generation_config.json", dict(eos_token_id=end, pad_token_id=tok.token_to_id("<|pad|>"), do_sample=True, temperature=0.7, top_p=0.95, top_k=50))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="stories-2m")
    ap.add_argument("--tokens", type=float, default=8e6, help="tokens to train on")
    ap.add_argument("--seconds", type=float, default=0, help="begin the decay so that the run ends after this time instead")
    ap.add_argument("--decay", type=float, default=0.3, help="share of the run over which the learning rate falls to zero")
    ap.add_argument("--vocab", type=int, default=2560)
    ap.add_argument("--hidden", type=int, default=192)
    ap.add_argument("--inner", type=int, default=384)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--heads", type=int, default=6)
    ap.add_argument("--head-dim", type=int, default=32)
    ap.add_argument("--kv-heads", type=int, default=2)
    ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--context", type=int, default=256)
    ap.add_argument("--lr-muon", type=float, default=0.02)
    ap.add_argument("--lr-adam", type=float, default=0.003)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--checkpoint", help="save the training state here every 50 steps until the decay begins")
    ap.add_argument("--resume", help="go on from such a state")
    ap.add_argument("--steps", type=int, default=0, help="stop after this many steps (for timing)")
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)

    state = torch.load(a.resume) if a.resume else None
    if state:
        tok = Tokenizer.from_str(state["tokenizer"])
    else:
        tok = train_tokenizer(generate(6000, a.seed), a.vocab)
    c = dict(vocab_size=a.vocab, hidden_size=a.hidden, intermediate_size=a.inner, num_hidden_layers=a.layers, num_attention_heads=a.heads,
             num_key_value_heads=a.kv_heads, head_dim=a.head_dim, max_position_embeddings=2048, rms_norm_eps=1e-6, rope_theta=10000.0)
    model = StoryModel(c)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    data = Batches(tok, a.batch, a.context, a.seed + 1)
    source = Batches(tok, 16, a.context, HELD_OUT)
    held = [source.next() for _ in range(4)]

    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or "embed" in n]
    optimisers = [Muon(matrices, a.lr_muon), torch.optim.AdamW(others, a.lr_adam, betas=(0.9, 0.95), weight_decay=0.0)]
    rates = [a.lr_muon, a.lr_adam]
    step, before = 0, 0
    if state:
        before = state["tokens"]
        data = Batches(tok, a.batch, a.context, a.seed + 1 + before)  # unseen stories
        model.load_state_dict(state["model"])
        for o, s in zip(optimisers, state["optimisers"]):
            o.load_state_dict(s)
    total = int(a.tokens / (a.batch * a.context))
    start, mean = time.time(), None
    while True:
        if a.seconds:
            progress = (time.time() - start) / a.seconds
        else:
            progress = step / total
        if progress >= 1 or (a.steps and step >= a.steps):
            break
        if a.checkpoint and step % 50 == 0 and progress <= 1 - a.decay:
            torch.save(dict(model=model.state_dict(), optimisers=[o.state_dict() for o in optimisers], tokenizer=tok.to_str(), tokens=before + step * a.batch * a.context), a.checkpoint)
        warm = 1.0 if state else min(1.0, (step + 1) / 20)
        scale = min(warm, max(0.02, (1 - progress) / a.decay) if a.decay else 1.0)
        for o, r in zip(optimisers, rates):
            o.param_groups[0]["lr"] = r * scale
        loss = model.loss(*data.next())
        for o in optimisers:
            o.zero_grad(set_to_none=True)
        loss.backward()
        for o in optimisers:
            o.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        step += 1
        if step % 20 == 0:
            rate = step * a.batch * a.context / (time.time() - start)
            line = f"step {step} tokens {before + step * a.batch * a.context} loss {mean:.4f} lr x{scale:.2f} {rate:.0f} tok/s"
            if step % 200 == 0:
                line += f" held-out {held_out_loss(model, held):.4f}"
            print(line, flush=True)
    with torch.no_grad():  # what ships is bf16, so that is what is measured
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16).float())
    print(f"done: {step} steps, {before + step * a.batch * a.context} tokens, held-out loss (bf16 weights)" + f" {held_out_loss(model, held):.4f}", flush=True)
    write_folder(Path(a.out), model, tok, c)


if __name__ == "__main__":
    main()
