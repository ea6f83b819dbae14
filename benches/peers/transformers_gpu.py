#!/usr/bin/env python3
"""Hugging Face transformers on one GPU: MODEL_DIR [BATCH …]; 256 tokens in, 65 out, greedy, bf16, sdpa.

The plain reference for `lathe bench throughput` on the same folder. A static batch whose sequences are all equally long
is the best case for `generate`: it pads nothing and waits for nobody.
"""
import sys, time, torch, transformers
from transformers import AutoModelForCausalLM

INPUT, OUTPUT = 256, 65
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, attn_implementation="sdpa").to("cuda").eval()
model.generation_config.eos_token_id = None
model.generation_config.pad_token_id = 0
print(f"{torch.cuda.get_device_name()}, transformers {transformers.__version__}, torch {torch.__version__}")


@torch.inference_mode()
def seconds(batch, new):
    ids = torch.randint(0, 10000, (batch, INPUT), device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False)
    torch.cuda.synchronize()
    return time.perf_counter() - start


for batch in map(int, sys.argv[2:] or ("1", "64", "256")):
    seconds(batch, 4)
    took = seconds(batch, OUTPUT)
    print(f"batch {batch}: {batch * OUTPUT} tokens in {took:.2f} s, {batch * OUTPUT / took:.0f} tok/s", flush=True)
