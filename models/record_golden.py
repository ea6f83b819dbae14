#!/usr/bin/env python3
"""Record what Hugging Face transformers gives for the shipped model, in float32, for the engine's tests.

    pip install torch transformers
    python record_golden.py stories-2m ../reference/golden/shipped_model.json [--tokens 48]

Each row: name, text, prompt_ids, greedy (ids, up to --tokens), decoded (their text), and for the first 8
generated positions top5, a list of [id, logprob].
"""
import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = {
    "once": "Once upon a time",
    "old_man": "The old man",
    "yesterday": "Yesterday I went to",
    "king": "The king said,",
    "door": "She opened the door and",
    "utf8": "Zoë found a café ☕ in the city.",
    "long": "Once upon a time, there was a little girl named Lily who lived in a small house near the river. "
            "She loved to sing and dance. One day, she lost her red hat in the garden. She looked under the bed and "
            "behind the door, but she could not find it. \"Where can it be?\" asked Lily. Then",
}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("out")
    ap.add_argument("--tokens", type=int, default=48)
    a = ap.parse_args()
    torch.set_grad_enabled(False)
    tok = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    rows = []
    for name, text in PROMPTS.items():
        ids = tok(text)["input_ids"]
        assert tok.decode(ids, clean_up_tokenization_spaces=False) == text
        out = model.generate(torch.tensor([ids]), max_new_tokens=a.tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
                             return_dict_in_generate=True, output_logits=True)
        greedy = out.sequences[0, len(ids):].tolist()
        top5 = []
        for logits in out.logits[:8]:
            value, index = torch.log_softmax(logits[0].float(), -1).topk(5)
            top5.append([[int(i), round(float(v), 5)] for i, v in zip(index, value)])
        rows.append(dict(name=name, text=text, prompt_ids=ids, greedy=greedy, decoded=tok.decode(greedy, skip_special_tokens=True), top5=top5))
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    Path(a.out).write_text("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n", encoding="utf-8")
    for r in rows:
        print(repr(r["text"][-40:]), "->", repr(r["decoded"]))


if __name__ == "__main__":
    main()
