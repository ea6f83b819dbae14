#!/usr/bin/env python3
"""Record what Hugging Face transformers gives for real prompts on a real model folder.

usage: record_prompts.py MODEL_DIR PROMPTS.json OUT.json [--tokens 48]
PROMPTS.json: list of {"name", "user"} (chat template applied) or {"name", "text"} (raw).
OUT.json rows: name, prompt_ids, greedy ids and text in float32, and for the first 8 generated positions the top-5 [id, logprob].
"""
import argparse, json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
ap = argparse.ArgumentParser(); ap.add_argument("model"); ap.add_argument("prompts"); ap.add_argument("out"); ap.add_argument("--tokens", type=int, default=48)
a = ap.parse_args(); torch.set_grad_enabled(False)
tok = AutoTokenizer.from_pretrained(a.model); m = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
rows = []
for p in json.load(open(a.prompts)):
    if "user" in p:
        text = tok.apply_chat_template([{"role": "user", "content": p["user"]}], add_generation_prompt=True, tokenize=False)
        ids = tok(text, add_special_tokens=False)["input_ids"]
    else:
        text = p["text"]; ids = tok(text)["input_ids"]
    o = m.generate(torch.tensor([ids]), max_new_tokens=a.tokens, do_sample=False, return_dict_in_generate=True, output_logits=True)
    gen = o.sequences[0, len(ids):].tolist(); top = []
    for l in o.logits[:8]:
        v, i = torch.log_softmax(l[0].float(), -1).topk(5); top.append([[int(x), round(float(y), 5)] for x, y in zip(i, v)])
    rows.append(dict(name=p["name"], rendered=text, prompt_ids=ids, greedy=gen, text=tok.decode(gen, skip_special_tokens=True), top5=top))
json.dump(rows, open(a.out, "w"), ensure_ascii=False, indent=0)
print(len(rows), rows[0]["text"][:200])
