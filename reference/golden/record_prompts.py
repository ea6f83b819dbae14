#!/usr/bin/env python3
"""Record what Hugging Face transformers generates for real prompts with a real model folder.

usage: record_prompts.py MODEL_DIR PROMPTS.json OUT.json [--tokens 48]

PROMPTS.json: [{"name", "user"}] (one user message, chat template applied) or [{"name", "text"}] (as it is).
OUT.json, one object a prompt: name, rendered (the text), prompt_ids, greedy (ids, float32 weights), text (decoded,
  special tokens left out), top5 ([[token id, log-probability]] at each of the first 8 generated positions).
"""
import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def render(tokenizer, prompt):
    """The text of a prompt and its token ids."""
    if "text" in prompt:
        return prompt["text"], tokenizer(prompt["text"])["input_ids"]
    messages = [{"role": "user", "content": prompt["user"]}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def record(tokenizer, model, prompt, tokens):
    rendered, ids = render(tokenizer, prompt)
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    greedy = out.sequences[0, len(ids) :].tolist()
    top5 = []
    for logits in out.logits[:8]:
        values, indices = torch.log_softmax(logits[0].float(), -1).topk(5)
        top5.append([[int(i), round(float(v), 5)] for i, v in zip(indices, values)])
    text = tokenizer.decode(greedy, skip_special_tokens=True)
    return dict(
        name=prompt["name"], rendered=rendered, prompt_ids=ids, greedy=greedy, text=text, top5=top5
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    with open(args.prompts) as f:
        prompts = json.load(f)
    rows = [record(tokenizer, model, prompt, args.tokens) for prompt in prompts]
    with open(args.out, "w") as f:
        json.dump(rows, f, ensure_ascii=False, indent=0)


main()
