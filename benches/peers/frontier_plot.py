"""Frontiers of size and cross-entropy as an SVG."""

WIDTH, HEIGHT, LEFT, BELOW = 640, 400, 70, 50
COLOURS = {"svdo": "#1b6ca8", "nncodec": "#c0392b"}


def svg(frontiers):
    """`frontiers`: for each codec, its points (bytes, cross-entropy)."""
    everything = [point for points in frontiers.values() for point in points]
    (left, right), (low, high) = (
        (min(axis), max(axis)) for axis in ([p[i] for p in everything] for i in (0, 1))
    )
    x = lambda v: LEFT + (WIDTH - LEFT - 20) * (v - left) / ((right - left) or 1)
    y = lambda v: HEIGHT - BELOW - (HEIGHT - BELOW - 20) * (v - low) / ((high - low) or 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">']
    text = lambda at, v, where, anchor: out.append(
        f'<text x="{at:.0f}" y="{where:.0f}" text-anchor="{anchor}">{v}</text>'
    )
    for i in range(5):
        size, loss = left + i * (right - left) / 4, low + i * (high - low) / 4
        text(x(size), f"{size:.0f}", HEIGHT - BELOW + 18, "middle")
        text(LEFT - 8, f"{loss:.3f}", y(loss) + 4, "end")
        out.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - 20}" stroke="#ddd"/>')
    text(WIDTH / 2, "bytes of the whole file", HEIGHT - 8, "middle")
    text(8, "cross-entropy", 12, "start")
    for i, (codec, points) in enumerate(frontiers.items()):
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[codec]}" stroke-width="2"/>')
        out += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{COLOURS[codec]}"/>' for a, b in points]
        out.append(f'<text x="{WIDTH - 120}" y="{36 + 16 * i}" fill="{COLOURS[codec]}">{codec}</text>')
    return "\n".join([*out, "</svg>", ""])
