#!/usr/bin/env python3
"""Draws src/figures/overview.svg from measured.csv: how many times smaller, how many times faster.

    python3 docs/picture.py

`before` is f32 weights and biases in bytes, or the fastest peer's microseconds; `after` is ours. The method
and the machine of every figure are in src/benchmarks.md."""

import csv
import pathlib

HERE = pathlib.Path(__file__).parent
WIDTH, ROW, LEFT, RIGHT = 760, 24, 250, 230
# Both readable on white and on black.
BAR, TEXT = "#2f7fd0", "#707a86"


def text(x, y, words, anchor="start", weight="normal", size=13):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{TEXT}">{words}</text>'
    )


def panel(rows, y, title, unit):
    """A bar from zero for each row's ratio."""
    ratios = [float(row["before"]) / float(row["after"]) for row in rows]
    scale = (WIDTH - LEFT - RIGHT) / max(ratios)
    parts = [text(0, y, title, weight="bold", size=14)]
    y += 12
    for row, ratio in zip(rows, ratios):
        shown = f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"
        words = f'{shown} ({unit(float(row["before"]))} to {unit(float(row["after"]))})'
        parts.append(text(LEFT - 10, y + 12, row["row"], "end"))
        parts.append(
            f'<rect x="{LEFT}" y="{y + 1:g}" width="{ratio * scale:.1f}" height="14" rx="2" fill="{BAR}"/>'
        )
        parts.append(text(LEFT + ratio * scale + 8, y + 12, words, size=12))
        y += ROW
    return parts, y


def size(value):
    return f"{value:,.0f} B"


def time(value):
    return f"{value / 1000:g} ms" if value >= 10_000 else f"{value:,g} us"


def main():
    with open(HERE / "measured.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of = lambda figure: [row for row in rows if row["figure"] == figure]
    parts, y = panel(of("size"), 18, "Times smaller than f32", size)
    more, y = panel(of("speed"), y + 26, "Times faster than the fastest other engine, one thread", time)
    words = "; ".join(f"{row['row']}: {row['before']} to {row['after']}" for row in rows)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" role="img" '
        f'font-family="system-ui, sans-serif">',
        "<title>Sizes and times, measured</title>",
        f"<desc>{words}</desc>",
        *parts,
        *more,
        "</svg>",
    ]
    out = HERE / "src/figures/overview.svg"
    out.write_text("\n".join(svg) + "\n")
    print(f"wrote {out}")


main()
