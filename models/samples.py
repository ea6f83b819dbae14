#!/usr/bin/env python3
"""Print continuations of a few openings with Hugging Face transformers, to read them.

    pip install torch transformers
    python samples.py stories-2m [--temperature 0.7] [--seed 0] [--tokens 120] ["An opening" ...]
"""
import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OPENINGS = ["Once upon a time", "The old man", "Yesterday I went to", "In the city there was", "My dog", "The king said", "She opened the door and",
            "One day, a little girl named Mira", "It was raining, and", "The teacher asked", "He looked at the sky. Then", "Two friends", "The robot",
            "\"Where are you going?\" asked the fox.", "Last summer, my brother and I", "The children were playing in the garden when", "A long time ago, in a small village",
            "The little bird was hungry.", "Anna and Peter wanted to", "When the storm came,", "I have a secret.", "The captain of the ship", "There was no one in the house."]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("openings", nargs="*", default=OPENINGS)
    ap.add_argument("--temperature", type=float, default=0.7)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tokens", type=int, default=120)
    a = ap.parse_intermixed_args()
    torch.set_grad_enabled(False)
    tok = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    how = dict(do_sample=True, temperature=a.temperature, top_p=0.95, top_k=0) if a.temperature else dict(do_sample=False, temperature=None, top_p=None, top_k=None)
    for text in a.openings or OPENINGS:
        torch.manual_seed(a.seed)
        ids = tok(text, return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=a.tokens, **how)
        print("> " + tok.decode(out[0], skip_special_tokens=True) + "\n", flush=True)


if __name__ == "__main__":
    main()
