#!/usr/bin/env python3
"""Where a run's time goes, by kernel, from trace.so's file: TRACE [ROWS …]

A step ends with the sampler. Steps without prefill attention are decodes; their padded batch is the sampler's grid. For
all steps together and for decodes of each batch named: how often a kernel ran a step, its time a step, its share. A
kernel's time counts from the later of its own start and the end of the one before (kernels may overlap); a gap is the
time in which nothing ran.
"""
import sys
from collections import defaultdict

SAMPLERS, PREFILL = ("pick", "reject", "sample_naive"), ("attention_flash", "attention_flash_hopper", "attention_unified")


def read(path):
    rows = []
    for line in open(path):
        start, end, x, y, z, name = line.split(maxsplit=5)
        rows.append((int(start), int(end), int(x), int(y), name.strip()))
    return sorted(rows)


def steps(rows):
    step = []
    for i, row in enumerate(rows):
        step.append(row)
        if row[4] in SAMPLERS and not (i + 1 < len(rows) and rows[i + 1][4] in SAMPLERS):
            yield step
            step = []


def table(title, chosen):
    if not chosen:
        return print(f"\n{title}: none")
    time, count, gaps, span = defaultdict(int), defaultdict(int), defaultdict(int), 0
    for before, step in chosen:
        end = before
        for start, stop, _, _, name in step:
            gaps[name] += max(0, start - end)
            time[name] += max(0, stop - max(start, end))
            count[name] += 1
            end = max(end, stop)
        span += end - before
    n = len(chosen)
    idle = span - sum(time.values())
    print(f"\n{title}: {n} steps, {span / n / 1e3:.1f} us each, {100 * (1 - idle / span):.1f}% of it in kernels and copies")
    print(f"{'':34}{'a step':>8}{'us a step':>11}{'us each':>9}{'share':>8}{'gap before, us each':>21}")
    for name in sorted(time, key=time.get, reverse=True):
        each = time[name] / count[name] / 1e3
        print(f"{name[:33]:34}{count[name] / n:>8.1f}{time[name] / n / 1e3:>11.1f}{each:>9.2f}"
              f"{100 * time[name] / span:>7.1f}%{gaps[name] / count[name] / 1e3:>21.2f}")
    print(f"{'nothing':34}{'':8}{idle / n / 1e3:>11.1f}{'':9}{100 * idle / span:>7.1f}%")


def main():
    rows, before, all_steps = read(sys.argv[1]), None, []
    for step in steps(rows):
        if before is not None:
            names = {row[4] for row in step}
            batch = next((row[3] for row in step if row[4] == "survey"), 0)
            all_steps.append((before, step, batch, not names & set(PREFILL)))
        before = max(row[1] for row in step)
    table("all steps", [(b, s) for b, s, _, _ in all_steps])
    table("steps with prefill", [(b, s) for b, s, _, decode in all_steps if not decode])
    for wanted in map(int, sys.argv[2:]):
        table(f"decodes of {wanted}", [(b, s) for b, s, rows, decode in all_steps if decode and rows == wanted])


main()
