#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the benchmark programs in interleaved pairs and writes tables, CSV and plots.

bench.py BIN OUT [--quick | --smoke] [--rows KEY,...] [--rounds N]

A pair is ours and one peer, back to back, in turn one and the other first. Before and after each
pair a two-line ping-pong tells how far apart the two CPUs are; a pair during which that changed by
more than 30 % is dropped. A ratio is the median over the ratios of the pairs that are left.

BENCH_LOCK=FILE[:FILE...] holds locks (flock) while rounds of pairs are measured, for machines on which
others build and measure, too; they are let go every 40 seconds.
"""

import argparse
import contextlib
import csv
import fcntl
import os
import statistics
import subprocess
import sys
import time

import plots
import report
import suite

CANNOT = 77
DISTANCE_CHANGED = 1.3


class Refused(Exception):
    """This contender has no such work; the words say why."""


class Failed(Exception):
    """A run that did not end well or did not verify."""


class Lab:
    """The programs, and how long a run is to take."""

    def __init__(self, folder, seconds):
        self.folder, self.seconds = folder, seconds
        self.absent, self.machine, self.ours_failed = {}, Machine(), False
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(folder, "absent"), encoding="utf-8") as lines:
                self.absent = dict(line.split() for line in lines)

    def has(self, contender):
        program = suite.PROGRAMS.get(contender, (contender, []))[0]
        return os.path.exists(os.path.join(self.folder, program))

    def command(self, contender, row, count):
        program, more = suite.PROGRAMS.get(contender, (contender, []))
        if more is None:  # a limit takes the footprint, not the work
            item = row.args[row.args.index("--item") + 1]
            args = [contender.removeprefix("limit_"), "--item", item, "--footprint",
                    str(row.footprint())]
        else:
            args = row.args + more
        return [os.path.join(self.folder, program), *args, "--count", str(count)]

    def run(self, contender, row, count):
        return self.start(self.command(contender, row, count))

    def start(self, command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == CANNOT:
            raise Refused(done.stderr.strip().splitlines()[-1])
        found = dict(pair.split("=") for pair in done.stdout.split())
        found = {key: float(value) for key, value in found.items()}
        if done.returncode or found.get("ok") != 1:
            raise Failed(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return found

    def probe(self):
        try:
            return self.start([os.path.join(self.folder, "limits"), "probe"])["ns"]
        except Refused:  # one CPU: there is no distance
            return 1.0

    def failed(self, name, row, refused, why):
        """A peer that hangs or loses items is left out, ours ends the benchmark with an error."""
        print(f"{name}, {row.title}: {why}", file=sys.stderr, flush=True)
        refused[name] = "failed: it hung, or what came out was not what went in"
        self.ours_failed |= name.startswith(suite.OURS)

    def counts(self, row, contenders, refused):
        """Items per run of each. The same for all, unless a slow one would take too long."""
        if row.count:
            return {name: row.count for name in contenders}
        rates = {}
        for name in contenders:
            count = 256
            try:
                found = self.run(name, row, count)
                while found["seconds"] < self.seconds / 8 and count < 1 << 34:
                    count *= 4
                    found = self.run(name, row, count)
                rates[name] = found["ops"]
            except Failed as why:
                self.failed(name, row, refused, why)
        if not rates:
            return {}
        same = max(4, int(rates.get(row.ours, max(rates.values())) * self.seconds))
        most = 2.5 * self.seconds
        return {name: max(4, min(same, int(rate * most))) for name, rate in rates.items()}


class Machine:
    """The locks of BENCH_LOCK, held while something is measured and let go now and then."""

    LONGEST = 40  # seconds

    def __init__(self):
        paths = filter(None, os.environ.get("BENCH_LOCK", "").split(":"))
        self.files = [open(path, "rb") for path in paths]
        self.since = None

    def take(self):
        if self.since is None:
            for file in self.files:
                fcntl.flock(file, fcntl.LOCK_EX)
            self.since = time.monotonic()

    def pause(self):
        """Between two rounds: lets others in when they have waited long enough."""
        if self.since is not None and time.monotonic() - self.since > self.LONGEST:
            for file in reversed(self.files):
                fcntl.flock(file, fcntl.LOCK_UN)
            self.since = None


def measure(lab, row, rounds, say):
    """All rounds of a row: a list of pairs, and who was left out and why."""
    refused, takes_part, pairs = {}, [], []
    lab.machine.take()
    for name in [row.ours, *row.others, *row.peers]:
        if not lab.has(name):
            refused[name] = f"absent: install {lab.absent.get(name, '?')}"
            continue
        try:
            lab.run(name, row, row.count and min(row.count, 100) or 256)
            takes_part.append(name)
        except Refused as why:
            refused[name] = str(why)
        except Failed as why:
            lab.failed(name, row, refused, why)
    counts = lab.counts(row, takes_part, refused)
    takes_part = [name for name in takes_part if name in counts]
    for turn in range(rounds if takes_part else 0):
        lab.machine.take()
        for place, name in enumerate(n for n in takes_part if n != row.ours):
            order = [row.ours, name] if (turn + place) % 2 else [name, row.ours]
            order = [n for n in order if n in takes_part]
            try:
                if name not in refused:
                    pairs.append(pair(lab, row, turn, name, order, counts))
            except Failed as why:
                lab.failed(name, row, refused, why)
        if takes_part == [row.ours]:
            pairs.append(pair(lab, row, turn, row.ours, takes_part, counts))
        say(f"round {turn + 1}/{rounds}: {report.short(row, pairs)}")
        lab.machine.pause()
    return pairs, refused


def pair(lab, row, turn, peer, order, counts):
    """Ours and a peer back to back, between two looks at the distance of the CPUs."""
    before = lab.probe()
    found = {name: lab.run(name, row, counts[name]) for name in order}
    after = lab.probe()
    kept = max(before, after) <= DISTANCE_CHANGED * min(before, after)
    return {"row": row.key, "turn": turn, "peer": peer, "kept": kept, "before": before,
            "after": after, "found": found}


def quartiles(values):
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summarise(row, pairs, refused):
    """Per contender: quartiles of each metric, quartiles of the ratio ours/theirs, pairs dropped."""
    table = {}
    names = [row.ours] + [n for n in [*row.others, *row.peers] if n not in refused]
    for name in names:
        mine = [p for p in pairs if name in p["found"]]
        kept = [p for p in mine if p["kept"]]
        entry = {"pairs": len(mine), "dropped": len(mine) - len(kept)}
        if not kept:
            refused.setdefault(name, "every pair was dropped: the CPUs' distance changed")
            continue
        for metric in kept[0]["found"][name]:
            values = [p["found"][name][metric] for p in kept]
            entry[metric] = quartiles(values)
        for metric in row.metrics:
            ratios = [p["found"][row.ours][metric] / p["found"][name][metric] for p in kept
                      if row.ours in p["found"] and p["found"][name][metric]]
            if ratios and name != row.ours:
                entry[f"ratio_{metric}"] = quartiles(ratios)
        table[name] = entry
    return table


def write_csv(out, results, pairs):
    with open(os.path.join(out, "runs.csv"), "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "turn", "pair_with", "kept", "probe_before_ns", "probe_after_ns",
                        "contender", "metric", "value"])
        for p in pairs:
            for name, found in p["found"].items():
                for metric, value in found.items():
                    lines.writerow([p["row"], p["turn"], p["peer"], int(p["kept"]), p["before"],
                                    p["after"], name, metric, value])
    with open(os.path.join(out, "table.csv"), "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "contender", "metric", "low_quartile", "median", "high_quartile",
                        "pairs", "dropped", "left_out"])
        for row, table, refused in results:
            for name, entry in table.items():
                for metric, value in entry.items():
                    if isinstance(value, tuple) and metric not in ("ok",):
                        lines.writerow([row.key, name, metric, *(f"{v:.6g}" for v in value),
                                        entry["pairs"], entry["dropped"], ""])
            for name, why in refused.items():
                lines.writerow([row.key, name, "", "", "", "", "", "", why])


def limits(lab):
    """What the machine can do, and what empty rings take."""
    program = os.path.join(lab.folder, "limits")
    lab.machine.take()
    found = {
        "two-line ping-pong": f"{lab.probe():.0f} ns per round trip",
        "memcpy, 64 KiB": f"{lab.start([program, 'memcpy'])['ops'] / 1e9:.1f} GB/s",
        "memcpy, 4 MiB":
            f"{lab.start([program, 'memcpy', '--footprint', '4194304'])['ops'] / 1e9:.1f} GB/s",
        "empty C call": f"{1e9 / lab.start([program, 'call'])['ops']:.2f} ns",
    }
    memory = []
    for capacity, item in suite.MEMORY:
        command = [os.path.join(lab.folder, "memory"), "--capacity", str(capacity), "--item",
                   str(item)]
        memory.append((capacity, item, int(lab.start(command)["bytes"]),
                       suite.memory_bar(capacity, item)))
    return found, memory


def growth(lab):
    """What calls cost beside many idle handles, and beside many rings."""
    program, found = os.path.join(lab.folder, "growth"), []
    for what, number in suite.GROWTH:
        figures = lab.start([program, f"--{what}", str(number)])
        if number == 1:
            alone = figures["call"]
        found.append((f"{number} {what}", figures["call"], figures["call"] / alone,
                      figures["attach"], figures["stat"]))
    return found


# Rounds of a run that is neither quick nor smoke, where a row does not say another number.
FULL = 7


def run_all(lab, rows, rounds, options, results, all_pairs):
    began = time.monotonic()
    for number, row in enumerate(rows, 1):
        def say(words, number=number, row=row):
            print(f"[{number}/{len(rows)}] {time.monotonic() - began:4.0f} s  {row.key:12} {words}",
                  flush=True)
        own = row.rounds or FULL
        many = options.rounds or (own if rounds == FULL else min(rounds, own))
        if options.smoke:
            row.count, many = min(row.count, 200), 1
            row.peers = row.peers if row.count != 1 else []
        pairs, refused = measure(lab, row, many, say)
        if options.smoke:  # one round proves nothing about speed, and drops nothing
            for one in pairs:
                one["kept"] = True
        results.append((row, summarise(row, pairs, refused), refused))
        all_pairs += pairs


def main():
    options = argparse.ArgumentParser()
    options.add_argument("bin")
    options.add_argument("out")
    options.add_argument("--quick", action="store_true", help="below a minute, less exact")
    options.add_argument("--smoke", action="store_true", help="does everything work?")
    options.add_argument("--rows", default="", help="only these, by key")
    options.add_argument("--rounds", type=int, default=0)
    options = options.parse_args()
    wanted = set(filter(None, options.rows.split(",")))
    rows = suite.ROWS + ([] if options.quick else suite.SWEEPS)
    if options.smoke:
        rows = suite.ROWS + suite.SWEEPS[:1]
    if wanted - {r.key for r in rows}:
        sys.exit(f"unknown rows; there are: {' '.join(r.key for r in suite.ROWS + suite.SWEEPS)}")
    rows = [r for r in rows if not wanted or r.key in wanted]
    rounds = options.rounds or (1 if options.smoke else 2 if options.quick else FULL)
    lab = Lab(options.bin, 0.0005 if options.smoke else 0.02 if options.quick else 0.06)
    os.makedirs(options.out, exist_ok=True)
    for name, package in lab.absent.items():
        print(f"absent: {suite.NAMES[name]}; install {package}", flush=True)

    results, all_pairs = [], []
    try:
        run_all(lab, rows, rounds, options, results, all_pairs)
    except KeyboardInterrupt:
        print("stopped; what was measured is written", flush=True)
        lab.machine.files = []  # no more waiting
    machine_can, memory = limits(lab)
    grown = growth(lab)
    write_csv(options.out, results, all_pairs)
    for name, svg in plots.draw(results).items():
        with open(os.path.join(options.out, name), "w", encoding="utf-8") as file:
            file.write(svg)
    text = report.text(results, machine_can, memory, grown, lab.absent)
    with open(os.path.join(options.out, "table.md"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text)
    print(f"written to {options.out}: table.md, table.csv, runs.csv, *.svg")
    if lab.ours_failed:
        sys.exit("Madang failed: see above")


if __name__ == "__main__":
    main()
