# SPDX-License-Identifier: MIT OR Apache-2.0
"""Line charts as SVG, readable on light and on dark ground."""

import math
from dataclasses import dataclass, field
from html import escape

import suite

WIDTH, HEIGHT = 900, 460
LEFT, RIGHT, TOP, BOTTOM = 80, 300, 50, 64

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-size: 16px; font-weight: 600 }
.ground { fill: #fff }
.grid { stroke: #ddd } .axis { stroke: #666 }
path { fill: none; stroke-width: 1.8 }
.ours { stroke-width: 3.4 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .ground { fill: #16181c } .grid { stroke: #33363c } .axis { stroke: #999 }
}
"""

# Distinct on white and on black. A contender has the same colour in every plot.
COLOURS = {
    "madang": "#e8590c", "madang_nowait": "#e8590c", "madang_stopproof": "#b3261e",
    "vyukov": "#7f8fa6", "limit_copy": "#7f8fa6", "futex": "#7f8fa6",
    "rte_ring": "#1c8adb", "ck_ring": "#2f9e5f", "boost_spsc": "#b05cd6", "boost_mpmc": "#b05cd6",
    "jack": "#c9a000", "libqb": "#8c7a6b", "iceoryx2": "#17a2a2", "condvar": "#e0559b",
    "pipe": "#a3b800", "zeromq": "#6a6ff0",
}
MARKS = "osd^v"


@dataclass
class Series:
    contender: str
    points: list
    label: str = ""
    dashed: bool = False
    spread: list = field(default_factory=list)  # (low, high) of each point


def number(value):
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def size_of(value):
    for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def decades(low, high):
    """Where the axis begins and ends around the values, and its ticks."""
    first = math.floor(math.log10(low))
    last = max(first + 1, math.ceil(math.log10(high)))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [step * 10.0 ** n for n in range(first, last) for step in steps] + [10.0 ** last]
    while len(ticks) > 2 and ticks[1] <= low:
        ticks.pop(0)
    while len(ticks) > 2 and ticks[-2] >= high:
        ticks.pop()
    return ticks[0], ticks[-1], ticks


def mark(kind, x, y, colour):
    shape = {
        "o": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        "s": f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>',
        "d": f'<polygon points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} '
             f'{x - 5:.1f},{y:.1f}"/>',
        "^": f'<polygon points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"/>',
        "v": f'<polygon points="{x:.1f},{y + 5:.1f} {x + 5:.1f},{y - 4:.1f} {x - 5:.1f},{y - 4:.1f}"/>',
    }[kind]
    return f'<g fill="{colour}">{shape}</g>'


def chart(title, x_label, y_label, x_ticks, series, y_tick=number):
    """x_ticks: {x: label}, in order; the places are evenly spaced. y is logarithmic."""
    values = [y for s in series for _, y in s.points if y > 0]
    if not values:
        return None
    low, high, ticks = decades(min(values), max(values))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    places = {x: LEFT + 24 + i * (right - LEFT - 48) / max(1, len(x_ticks) - 1)
              for i, x in enumerate(x_ticks)}

    def height(y):
        part = (math.log10(y) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return bottom - part * (bottom - TOP)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">',
           f"<title>{escape(title)}</title><style>{STYLE}</style>",
           f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
           f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>']
    for y in ticks:
        at = height(y)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y_tick(y)}</text>')
    for x, label in x_ticks.items():
        at = places[x]
        out.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{escape(label)}</text>')
    out += [f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>',
            f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{bottom}"/>',
            f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 16}" text-anchor="middle">'
            f"{escape(x_label)}</text>",
            f'<text transform="translate(20 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>']
    for i, s in enumerate(series):
        colour, kind = COLOURS[s.contender], MARKS[i % len(MARKS)]
        dots = [(places[x], height(y)) for x, y in s.points if x in places and y > 0]
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in dots)
        dash = ' stroke-dasharray="6 4"' if s.dashed else ""
        is_ours = s.contender.startswith(suite.OURS)
        ours = ' class="ours"' if is_ours else ""
        out.append(f'<path{ours} d="M{line}" stroke="{colour}"{dash}/>')
        for (x, _), (bottom_y, top_y) in zip(dots, s.spread):
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{height(bottom_y):.1f}" '
                       f'y2="{height(top_y):.1f}" stroke="{colour}" stroke-width="1.2"/>')
        out += [mark(kind, x, y, colour) for x, y in dots]
        at = TOP + 6 + i * 22
        out.append(f'<path{ours} d="M{right + 16} {at} h26" stroke="{colour}"{dash}/>')
        out.append(mark(kind, right + 29, at, colour))
        weight = ' font-weight="600"' if is_ours else ""
        out.append(f'<text x="{right + 50}" y="{at + 4}"{weight}>{escape(s.label or suite.NAMES[s.contender])}</text>')
    return "\n".join(out) + "\n</svg>\n"


def series_over(tables, contenders, points, value):
    """One series per contender: points is {x: row key}, value turns an entry into quartiles."""
    found = []
    for name in contenders:
        line, spread = [], []
        for x, key in points.items():
            entry = tables.get(key, {}).get(name)
            if entry:
                low, middle, high = value(entry, x)
                line.append((x, middle))
                spread.append((low, high))
        if line:
            dashed = name.startswith(("madang_", "limit", "vyukov"))
            found.append(Series(name, line, dashed=dashed, spread=spread))
    return found


def scaled(entry, by):
    return tuple(v * by for v in entry["ops"])


def nanoseconds(entry, _):
    low, middle, high = entry["ops"]
    return 1e9 / high, 1e9 / middle, 1e9 / low


def draw(results):
    """{file name: SVG} of the plots for which there are figures."""
    tables = {row.key: table for row, table, _ in results}
    plots = {}
    sizes = {8: "spsc8", 64: "spsc64", 256: "spsc256", 1024: "spsc1k", 4096: "inplace4k",
             65536: "inplace64k"}
    plots["throughput.svg"] = chart(
        "Throughput by item size, one producer, one consumer", "item size (4 KiB and more: in place)",
        "GB/s", {s: size_of(s) for s in sizes},
        series_over(tables, ["madang", "madang_nowait", "rte_ring", "ck_ring", "boost_spsc", "jack",
                             "libqb", "iceoryx2", "condvar", "pipe", "zeromq"], sizes,
                    lambda entry, size: scaled(entry, size / 1e9)))
    plots["latency.svg"] = latency(tables)
    sides = {(p, c): f"mpmc{p}{c}" if p == c else f"scale_{p}x{c}" for p, c in suite.SCALING}
    plots["scaling.svg"] = chart(
        "Many producers and consumers, 8-byte items", "producers and consumers", "items per second",
        {x: f"{x[0]}P{x[1]}C" for x in sides},
        series_over(tables, ["madang", "madang_stopproof", "vyukov", "rte_ring", "ck_ring",
                             "boost_mpmc"], sides, lambda entry, _: scaled(entry, 1)))
    readers = {1: "bcast1", 3: "bcast3"}
    plots["broadcast.svg"] = chart(
        "Every reader gets every item, 8-byte items", "readers", "items per second",
        {r: str(r) for r in readers},
        series_over(tables, ["madang", "iceoryx2", "zeromq"], readers,
                    lambda entry, _: scaled(entry, 1)))
    for name, item, title in (("foot8", 8, "8-byte items"), ("foot4k", 4096, "4 KiB items in place")):
        points = {item * int(row.key.split("_")[1]): row.key for row, _, _ in results
                  if row.key.startswith(name + "_")}
        plots[f"{name}.svg"] = chart(
            f"Cost by footprint of the ring, {title}", "footprint: capacity × item size",
            "ns per item", {x: size_of(x) for x in points},
            series_over(tables, ["madang", "madang_nowait", "rte_ring", "ck_ring", "boost_spsc", "jack",
                                 "limit_copy"], points, nanoseconds))
    return {name: svg for name, svg in plots.items() if svg}


def latency(tables):
    percentiles = ["p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9", "p99.99"]
    lines = []
    for key, names in (("trip_spin", ["madang_nowait", "vyukov", "rte_ring", "ck_ring", "boost_spsc",
                                      "iceoryx2"]),
                       ("trip_sleep", ["madang", "futex", "pipe", "condvar", "zeromq"])):
        sleeping = key == "trip_sleep"
        for name in names:
            entry = tables.get(key, {}).get(name)
            if entry:
                points = [(p, entry[p][1]) for p in percentiles if p in entry]
                label = suite.NAMES[name].split(",")[0] + (", sleeping" if sleeping else "")
                lines.append(Series(name, points, label, sleeping))
    return chart("Round trip of 8 bytes, both sides spinning or both sleeping", "percentile",
                 "nanoseconds", {p: p[1:] for p in percentiles}, lines)
