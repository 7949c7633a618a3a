# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tables in Markdown: each bar and what was measured, and every contender of every row."""

import statistics

import suite

LOWER_IS_BETTER = ("p50", "p99", "cpu_us")


def figure(metric, value):
    if metric == "ops":
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:.3g} {letter}/s"
        return f"{value:.3g} /s"
    if metric == "cpu_us":
        return f"{value:.0f} µs"
    return f"{value:.0f} ns" if value < 10000 else f"{value / 1000:.1f} µs"


def spread(metric, entry):
    low, middle, high = entry[metric]
    return f"{figure(metric, middle)} ({figure(metric, low)} – {figure(metric, high)})"


def short(row, pairs):
    """One line of progress: the medians so far of ours and of the best two."""
    metric, values = row.metrics[0], {}
    for pair in pairs:
        for name, found in pair["found"].items():
            values.setdefault(name, []).append(found[metric])
    medians = {name: statistics.median(v) for name, v in values.items()}
    best = sorted((n for n in medians if n in row.peers), key=medians.get,
                  reverse=metric not in LOWER_IS_BETTER)[:2]
    shown = [n for n in [row.ours, *best] if n in medians]
    return ", ".join(f"{n} {figure(metric, medians[n])}" for n in shown)


def best_peer(row, table, metric):
    """The peer against which ours looks worst."""
    ratios = {n: table[n][f"ratio_{metric}"][1] for n in row.peers
              if n in table and f"ratio_{metric}" in table[n]}
    if not ratios:
        return None
    return (max if metric in LOWER_IS_BETTER else min)(ratios, key=ratios.get)


def judge(row, table, refused, bar):
    """(what is compared, the bar, ours, theirs, the ratio, verdict)"""
    less = bar.metric in LOWER_IS_BETTER
    sign = "≤" if less else "≥"
    if row.ours not in table:
        return ("", f"{sign} {bar.at:g}", refused.get(row.ours, ""), "", "", "not measured")
    ours = table[row.ours]
    if bar.against is None:
        value = ours[bar.metric]
        ok = value[1] <= bar.at if less else value[1] >= bar.at
        return ("", f"{sign} {bar.at:g} {bar.unit}", spread(bar.metric, ours), "", "",
                "met" if ok else "missed")
    name = best_peer(row, table, bar.metric) if bar.against == "best" else bar.against
    if name not in table or f"ratio_{bar.metric}" not in table[name]:
        why = refused.get(name, "no peer could be measured") if name else "no peer is installed"
        return (name or "best", f"{sign} {bar.at:g}", spread(bar.metric, ours), why, "",
                "not measured")
    low, ratio, high = table[name][f"ratio_{bar.metric}"]
    ok = ratio <= bar.at if less else ratio >= bar.at
    return (suite.NAMES[name], f"{sign} {bar.at:g} ×", spread(bar.metric, ours),
            spread(bar.metric, table[name]), f"{ratio:.2f} ({low:.2f} – {high:.2f})",
            "met" if ok else "missed")


def text(results, machine_can, memory, grown, absent):
    lines = ["## Bars", "",
             "| Work | Figure | Madang: median (quartiles) | Against | Theirs | Ratio | Bar | |",
             "|---|---|---|---|---|---|---|---|"]
    for row, table, refused in results:
        for bar in row.bars:
            name, limit, ours, theirs, ratio, verdict = judge(row, table, refused, bar)
            lines.append(f"| {row.title} | {bar.metric} | {ours} | {name} | {theirs} | {ratio} | "
                         f"{limit} | {verdict} |")
    lines += ["", "## Memory of an empty ring", "",
              "| Items | Bytes each | Takes | Bar | |", "|---|---|---|---|---|"]
    for capacity, item, taken, bar in memory:
        lines.append(f"| {capacity} | {item} | {taken} | ≤ {bar} | "
                     f"{'met' if taken <= bar else 'missed'} |")
    lines += ["", "## Cost that grows", "",
              f"Beside so many idle handles of the same ring, or rings. Bars: push and pop at most "
              f"{suite.GROWTH_CALL:g} times the figure beside one, attaching and closing at most "
              f"{suite.GROWTH_ATTACH / 1e6:g} ms.", "",
              "| Beside | Push and pop | Times | Attach and close | Statistics | |",
              "|---|---|---|---|---|---|"]
    for beside, call, times, attach, stat in grown:
        ok = times <= suite.GROWTH_CALL and attach <= suite.GROWTH_ATTACH
        lines.append(f"| {beside} | {call:.0f} ns | {times:.2f} | {attach / 1e3:.1f} µs | "
                     f"{stat / 1e3:.1f} µs | {'met' if ok else 'missed'} |")
    lines += ["", "## What the machine can do", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in machine_can.items()]
    if absent:
        lines += ["", "## Absent", "", "| Peer | Install |", "|---|---|"]
        lines += [f"| {suite.NAMES[name]} | {package} |" for name, package in absent.items()]
    for row, table, refused in results:
        if row.bars:
            lines += everyone(row, table, refused)
    return "\n".join(lines) + "\n"


def everyone(row, table, refused):
    metric = row.metrics[0]
    heads = " | ".join(f"{m}: median (quartiles) | ours / theirs" for m in row.metrics)
    lines = ["", f"## {row.title}", "", f"`{' '.join(row.args)}`", "",
             f"| Contender | {heads} | Pairs dropped |",
             "|---|" + "---|---|" * len(row.metrics) + "---|"]
    order = sorted(table, key=lambda n: table[n][metric][1], reverse=metric not in LOWER_IS_BETTER)
    for name in order:
        entry = table[name]
        cells = []
        for m in row.metrics:
            ratio = entry.get(f"ratio_{m}")
            cells += [spread(m, entry), f"{ratio[1]:.2f}" if ratio else ""]
        lines.append(f"| {suite.NAMES[name]} | {' | '.join(cells)} | "
                     f"{entry['dropped']} of {entry['pairs']} |")
    left_out = [f"{suite.NAMES[name]} ({why})" for name, why in refused.items()]
    if left_out:
        lines += ["", "Left out: " + "; ".join(left_out) + "."]
    return lines
