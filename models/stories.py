#!/usr/bin/env python3
"""Write simple English stories from the grammar in `grammar/` (our own text).

    python stories.py [--count 5] [--seed 0]        print stories

The grammar files are plain text:
    # rule            a named rule; each line below it is one alternative, `<rule>` uses it
    ## plot tags      a plot; blocks separated by blank lines are its beats in order, each line of a
                      block is one alternative, a block whose first line starts with `?` is optional
    @tag @!tag text   the alternative (or plot) needs the story to have, or not to have, that tag
    [a|b|]            an inline choice;  {slot}  a value fixed for the story (see `Story.slots`)
"""
import argparse
import random
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent / "grammar"
WIDE = dict(man="many_men", woman="many_women", animal="many_animals", thing="many_things", place="many_places", adj_person="many_adj", adj_animal="many_adj")
SYLLABLES = "ba be bi bo da de di do fa fe fi ga go ha he ka ke ki ko la le li lo lu ma me mi mo na ne ni no pa pe ra re ri ro sa se si so ta te ti to va vi wa we ya za zu al an ar el en er il in or ul jo ju".split()
TAG = "\x01"  # marks the `said Lily` after a quotation, which stays in lower case
QUESTION = re.compile(r"(?:[\w ]{1,20}, )?(Where|Who|Why|Can|May|Is|Are|Has|Have (you|we)|Would|Could|Shall|Did|Do (you|they)|Does|Will|How (can|much|could|was|are)|"
                      r"What (is|are|shall|will|have|do|does|can|happened|was|if)|When will|And you)\b", re.I)
PRONOUNS = {  # subject, object, possessive, reflexive, was, possessive noun
    "he": ("he", "him", "his", "himself", "was", "his"),
    "she": ("she", "her", "her", "herself", "was", "hers"),
    "it": ("it", "it", "its", "itself", "was", "its"),
    "they": ("they", "them", "their", "themselves", "were", "theirs"),
    "I": ("I", "me", "my", "myself", "was", "mine"),
    "we": ("we", "us", "our", "ourselves", "were", "ours"),
}


def split_tags(line):
    """`@a @!b text` -> (["a", "!b"], "text")"""
    words = line.split(" ")
    n = next((i for i, w in enumerate(words) if not w.startswith("@")), len(words))
    return [w[1:] for w in words[:n]], " ".join(words[n:])


class Grammar:
    """The rules and plots of every file in `grammar/`."""

    def __init__(self, folder=HERE):
        self.rules, self.plots = {}, []
        for path in sorted(Path(folder).glob("*.txt")):
            target, plot, fresh = None, None, True
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                line = line.rstrip()
                if line.startswith("## "):
                    name, *tags = line[3:].split()
                    plot = dict(name=name, tags=[t[1:] for t in tags], beats=[])
                    self.plots.append(plot)
                    fresh = True
                elif line.startswith("# "):
                    plot, target = None, self.rules.setdefault(line[2:].strip(), [])
                elif not line:
                    fresh = True
                elif plot is not None:
                    if fresh:
                        optional = line.startswith("?")
                        plot["beats"].append((optional, []))
                        fresh = False
                    plot["beats"][-1][1].append(split_tags(line.lstrip("? ")))
                elif target is not None:
                    target.append(split_tags(line))
                else:
                    raise SystemExit(f"{path.name}:{number}: text before any rule")


class Story:
    """One story: draws the characters, then expands an opening, a plot and an ending."""

    def __init__(self, grammar, rng):
        self.g, self.rng = grammar, rng
        self.used = set()
        self.draw()

    def word(self, rule):
        """One line of a word list, now and then of its longer list of rarer words."""
        wide = WIDE.get(rule)
        if wide and self.rng.random() < 0.3:
            rule = wide
        elif rule in ("boy", "girl") and self.rng.random() < 0.12:
            return self.made_up()
        return self.expand(self.pick(self.g.rules[rule], rule))

    def made_up(self):
        """A name that is in no list, so that names are copied rather than known."""
        pick = self.rng.choice
        return "".join(pick(SYLLABLES) for _ in range(pick((1, 2, 2, 3)))).capitalize() + pick(("", "a", "o", "n", "r", "l", "s", "th", "ia"))

    def draw(self):
        rng = self.rng
        self.tags = set()
        kind = rng.choices(["child", "role", "animal", "I", "we", "pair", "pronoun"], [26, 24, 17, 14, 4, 8, 7])[0]
        sex = rng.choice(["he", "she"])
        self.s = s = {}
        s["name"] = self.word("boy" if sex == "he" else "girl")
        self.adj = self.word("adj_person")
        if kind == "child":
            pron, hero, intro = sex, s["name"], rng.choice([f"a {self.adj} {'boy' if sex == 'he' else 'girl'} named {s['name']}", f"a {'boy' if sex == 'he' else 'girl'} called {s['name']}", f"a {self.adj} {'boy' if sex == 'he' else 'girl'} called {s['name']}"])
            s["call"], self.tags = s["name"], {"third", "single", "named", "human", "young"}
        elif kind == "role":
            base = self.word("man" if sex == "he" else "woman")
            old = base.split()[0] in ("old", "young", "little")
            pron, hero = sex, "the " + base
            intro = "a " + (base if old else f"{self.adj} {base}")
            royal = base in ("king", "queen", "prince", "princess")
            s["call"] = {"king": "my king", "queen": "my queen", "prince": "my prince", "princess": "my princess"}.get(base, "my friend")
            self.tags = {"third", "single", "role", "human", "grown"} | ({"royal"} if royal else set())
            if base in ("little boy", "little girl", "young girl", "young boy"):
                self.tags = {"third", "single", "role", "human", "young"}
            s["rolename"] = base
        elif kind == "animal":
            base, self.adj = self.word("animal"), self.word("adj_animal")
            pron = rng.choice(["he", "she", "it"])
            if rng.random() < 0.4:
                petname = self.word("animal_name")
                hero, intro = petname, f"a {self.adj} {base} named {petname}"
                pron = rng.choice(["he", "she"])
                s["call"] = petname
            else:
                hero, intro = "the " + base, f"a {self.adj} {base}"
                s["call"] = rng.choice(["little " + base, "my friend", base])
            s["species"] = base
            self.tags = {"third", "single", "animal"}
        elif kind == "pronoun":
            pron, hero, intro = sex, sex, sex
            s["call"], self.tags = s["name"], {"third", "single", "human", "pronoun", "young"}
        elif kind == "I":
            pron, hero, intro = "I", "I", "I"
            s["call"], self.tags = s["name"], {"first", "single", "human", "young"}
        elif kind == "we":
            pron, hero, intro = "we", "we", "we"
            s["call"], self.tags = "children", {"first", "plural", "human", "young"}
        else:
            other = self.word("girl" if sex == "he" else "boy")
            pair = [s["name"], other]
            rng.shuffle(pair)
            hero, intro = rng.choice([(" and ".join(pair), " and ".join(pair)), ("the children", f"two {self.word('adj_pair')} children named {' and '.join(pair)}"),
                                      ("the two friends", f"two friends named {' and '.join(pair)}")])
            pron = "they"
            s["call"], self.tags = "children", {"third", "plural", "human", "young", "named"}
        if pron == "it":
            self.tags.add("it")
        self.pron = pron
        s["hero"], s["intro"] = hero, intro
        s["he"], s["him"], s["his"], s["himself"], s["was"], s["hisown"] = PRONOUNS[pron]
        s["they"], s["them"] = ("we", "us") if "first" in self.tags else ("they", "them")
        self.draw_friend(sex)
        for slot in ("place", "thing", "food", "colour", "small_place", "wild", "bad_weather", "good_weather", "prize", "sound", "job_tool", "crop"):
            s[slot] = self.word(slot)
        s["place2"] = self.word("place")
        s["thing2"] = self.word("thing")
        s["town"] = rng.choice(["village", "village", "town", "city"])
        s["pet"] = self.word("pet")
        s["pethe"] = rng.choice(["he", "she"])
        s["pethim"], s["pethis"] = PRONOUNS[s["pethe"]][1:3]
        s["petname"] = self.word("animal_name")

    def draw_friend(self, sex):
        """The second character; usually of the other sex, so that pronouns stay clear."""
        rng, s = self.rng, self.s
        fp = {"he": "she", "she": "he"}[sex] if rng.random() < 0.85 else sex
        s["fname"] = self.word("boy" if fp == "he" else "girl")
        while s["fname"] in (s["name"], s["call"]) or s["fname"] in s["hero"]:
            s["fname"] = self.word("boy" if fp == "he" else "girl")
        his = s["his"]
        if "animal" in self.tags:
            base = self.word("animal")
            while base == s["species"]:
                base = self.word("animal")
            s["friend1"], s["friend"], s["fcall"] = f"{self.rng.choice(['a', 'a', 'an old', 'a wise', 'a friendly'])} {base}", "the " + base, rng.choice(["my friend", base])
        elif "young" in self.tags and rng.random() < 0.5:
            rel = self.word("relative_he" if fp == "he" else "relative_she")
            if rel in ("Mom", "Dad", "Grandma", "Grandpa"):
                s["friend1"] = s["friend"] = s["fcall"] = rel
            else:
                s["friend1"] = s["friend"] = f"{his} {rel}"
                s["fcall"] = {"mother": "Mother", "father": "Father", "grandmother": "Grandma", "grandfather": "Grandpa"}.get(rel, s["fname"])
            self.tags.add("family")
        elif "young" in self.tags or rng.random() < 0.3:
            s["friend1"], s["friend"], s["fcall"] = rng.choice([f"{his} friend {s['fname']}", f"{his} best friend {s['fname']}", f"a {'boy' if fp == 'he' else 'girl'} named {s['fname']}"]), s["fname"], s["fname"]
            self.tags.add("peer")
        else:
            base = self.word("man" if fp == "he" else "woman")
            while "the " + base == s["hero"]:
                base = self.word("man" if fp == "he" else "woman")
            s["friend1"], s["friend"], s["fcall"] = "a " + base, "the " + base, rng.choice(["my friend", "good " + base.split()[-1]])
        self.fpron = fp
        s["fhe"], s["fhim"], s["fhis"], s["fhimself"] = PRONOUNS[fp][:4]

    def pick(self, lines, where):
        ok = [text for tags, text in lines if all((t[1:] not in self.tags) if t[0] == "!" else t in self.tags for t in tags)]
        if not ok:
            raise KeyError(f"no line of {where} fits {sorted(self.tags)}")
        return self.rng.choice(ok)

    def speech(self, verb, who, pron):
        """`said Lily`, `Lily said`, `she said`, `I said`."""
        if pron in ("I", "we") or who == pron:
            return f"{TAG}{pron} {verb}"
        return TAG + self.rng.choice([f"{verb} {who}", f"{verb} {who}", f"{who} {verb}", f"{pron} {verb}"])

    def slot(self, name):
        if ":" in name:
            kind, arg = name.split(":", 1)
            if kind == "v":
                return self.speech(arg, self.s["hero"], self.pron)
            if kind == "fv":
                return self.speech(arg, self.s["friend"], self.fpron)
            if kind == "s":
                return arg + "s" if "plural" in self.tags else arg
            if kind == "new":  # a fresh word on every use
                return self.word(arg)
            raise KeyError(name)
        value = self.s[name]
        if name == "friend1":  # "a baker" once, then "the baker"
            self.s["friend1"] = self.s["friend"]
        return value

    def expand(self, text):
        while True:
            m = re.search(r"\[([^\[\]]*)\]", text)
            if not m:
                break
            text = text[:m.start()] + self.rng.choice(m[1].split("|")) + text[m.end():]
        out, last = [], 0
        for m in re.finditer(r"<(\w+)>|\{([\w:!]+)\}", text):
            out.append(text[last:m.start()])
            if m[1]:
                key = m[1]
                line = self.pick(self.g.rules[key], key)
                for _ in range(4):  # prefer a sentence that this story has not used yet
                    if (key, line) not in self.used:
                        break
                    line = self.pick(self.g.rules[key], key)
                self.used.add((key, line))
                out.append(self.expand(line))
            else:
                out.append(self.slot(m[2]))
            last = m.end()
        return "".join(out) + text[last:]

    def text(self):
        rng = self.rng
        plots = [p for p in self.g.plots if all((t[1:] not in self.tags) if t[0] == "!" else t in self.tags for t in p["tags"])]
        plot = rng.choice(plots)
        parts = [self.expand("<opening>")]
        scene = any(rule == "open_scene" for rule, _ in self.used)
        if rng.random() < 0.35 and not scene:
            parts.append(self.expand("<setting>"))
        body = []
        for optional, lines in plot["beats"]:
            if not optional or rng.random() < 0.5:
                body.append(self.expand(self.pick(lines, plot["name"])))
        if rng.random() < 0.2:
            body.insert(rng.randrange(1, len(body)), self.expand("<aside>"))
        parts += body
        if rng.random() < 0.55:
            parts.append(self.expand("<ending>"))
        parts = [p.strip()[0].upper() + p.strip()[1:] for p in parts if p.strip()]
        text = parts[0]
        breaks = 0.3 if rng.random() < 0.3 else 0.0
        for p in parts[1:]:
            text += ("\n\n" if rng.random() < breaks else " ") + p
        return finish(text)


def punctuate(quote):
    """End the questions of one quotation with `?` and nothing else with it."""
    def fix(m):
        asks = QUESTION.match(m[1])
        if asks and m[2] in ".,":
            return m[1] + "?"
        return m[1] + ("." if m[2] == "?" and not asks else m[2])
    return '"' + re.sub(r"(?<!\S)([^.!?]+?)([.!?]|,$)", fix, quote[1]) + '"'


def finish(text):
    """Articles, spaces, question marks and capitals."""
    text = re.sub(r" +", " ", text).replace(" .", ".").replace(" ,", ",")
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU](?!ne\b|nic|se))", r"\1n ", text)
    text = re.sub(r"\b([Aa])n (?=[^aeiouAEIOUh])", r"\1 ", text)
    up = lambda m: m[0][:-1] + m[0][-1].upper()
    text = re.sub(r"(?:^|\n|(?<=[^ ][.!?]) |(?<=[.!?]\") |(?:(?<=\s)|^)\")[a-z]", up, text)
    text = re.sub(r'(?<=[!?]" )(Asked|Said|Called|Cried|Shouted|(She|He|Someone|It|Everyone|They|We|I) (both )?(asked|said|called|shouted))\b', lambda m: m[0].lower(), text)
    text = re.sub(r'"([^"]*)"', punctuate, text)
    text = re.sub(r'(?<=[.])"(?= \x01)', ',"', text).replace('.,"', ',"')
    return text.replace(TAG, "").strip()


def generate(count, seed):
    """`count` stories; the same seed gives the same stories."""
    grammar, rng = Grammar(), random.Random(seed)
    for _ in range(count):
        yield Story(grammar, rng).text()


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=5)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    for story in generate(a.count, a.seed):
        print(story + "\n\n---\n")
