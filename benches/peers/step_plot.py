"""Steps of fine-tuning by the weights kept, as an SVG: step_plot.py FILE.csv > FILE.svg, the table being that of
`cargo bench --bench train_step -- sparsity`."""
import csv
import math
import sys

WIDTH, HEIGHT, LEFT, BELOW, TOP = 640, 360, 60, 50, 20
COLOURS = ["#1b6ca8", "#c0392b", "#2e8b57"]


def main():
    rows = [row for row in csv.DictReader(open(sys.argv[1])) if row["kept"] != "posterior"]
    networks = list(dict.fromkeys(row["recipe"] for row in rows))
    most = max(1.0, *(float(row["of_the_posterior_step"]) for row in rows))
    x = lambda kept: LEFT + (WIDTH - LEFT - 20) * (1 + math.log10(kept) / 2)
    y = lambda share: HEIGHT - BELOW - (HEIGHT - BELOW - TOP) * share / most
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    text = lambda at, v, where, anchor, colour="#000": out.append(
        f'<text x="{at:.0f}" y="{where:.0f}" text-anchor="{anchor}" fill="{colour}">{v}</text>'
    )
    for share in (0, 0.25, 0.5, 0.75, 1):
        text(LEFT - 8, f"{share:g}", y(share) + 4, "end")
        out.append(f'<path d="M{LEFT} {y(share):.1f}H{WIDTH - 20}" stroke="#ddd"/>')
    for kept in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        text(x(kept), f"{100 * kept:g} %", HEIGHT - BELOW + 18, "middle")
    text(WIDTH / 2, "weights kept", HEIGHT - 8, "middle")
    text(8, "of a step of the posterior", 14, "start")
    for number, name in enumerate(networks):
        points = [(x(float(r["kept"])), y(float(r["of_the_posterior_step"]))) for r in rows if r["recipe"] == name]
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        text(LEFT + 10, name, HEIGHT - BELOW - 44 + 16 * number, "start", colour)
    print("\n".join([*out, "</svg>"]))


main()
