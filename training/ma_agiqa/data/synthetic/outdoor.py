"""Procedural scenes under an open sky."""

import itertools

import numpy as np

from ma_agiqa.data.synthetic.canvas import Canvas, Image, fractal_noise, hsv


def sky(c: Canvas, horizon: float) -> None:
    """Sky down to the horizon: by day, at dusk or overcast, with clouds and sometimes a sun."""
    mood = c.rng.choice(["day", "day", "dusk", "overcast"])
    hue = c.rng.uniform(0.54, 0.62)
    top, bottom = {
        "day": (hsv(hue, 0.65, 0.85), hsv(hue, 0.2, 0.98)),
        "dusk": (hsv(0.68, 0.55, 0.45), hsv(c.rng.uniform(0.02, 0.1), 0.55, 0.98)),
        "overcast": (hsv(hue, 0.12, 0.7), hsv(hue, 0.06, 0.9)),
    }[str(mood)]
    c.gradient(c.rectangle(-0.02, -0.02, 1.02, horizon + 0.02), top, bottom, texture=0.012)
    if mood != "overcast":
        x, y = c.rng.uniform(0.1, 0.9), horizon * c.rng.uniform(0.15, 0.75)
        c.glow(x, y, 0.22, (1.0, 0.9, 0.7), 0.35)
        c.paint(c.disc(x, y, c.rng.uniform(0.03, 0.06)), (1.0, 0.96, 0.82), 0.01)
    clouds(c, horizon, mood == "dusk")


def clouds(c: Canvas, horizon: float, warm: bool) -> None:
    """Clouds from thresholded fractal noise in the sky."""
    rows = int(horizon * c.height)
    field = fractal_noise(c.rng, rows, c.width, c.short / 3, 6)
    cover = np.clip((field - c.rng.uniform(0.3, 1.3)) * 0.9, 0, 0.85)
    cover *= np.linspace(1.0, 0.3, rows, dtype=np.float32)[:, None]
    light = 0.93 + 0.05 * np.clip(field, -1, 1)
    tone = (1.0, 0.86, 0.78) if warm else (1.0, 1.0, 1.0)
    layer = light[..., None] * np.asarray(tone, np.float32)
    c.pixels[:rows] += cover[..., None] * (layer - c.pixels[:rows])


def ridge(c: Canvas, level: float, height: float, roughness: int) -> Image:
    """A skyline (65,) around a level, in fractions of the height."""
    line = fractal_noise(c.rng, 3, 65, 65 / roughness, 5)[1]
    return np.asarray(level - height * line, np.float32)


def grass(c: Canvas, top: float, hue: float, blades: int = 260) -> None:
    """Short strokes over a meadow that grow toward the viewer."""
    for y in np.sort(c.rng.uniform(top, 1.02, blades)):
        x, near = c.rng.uniform(0, 1), (y - top) / (1.02 - top)
        tip = (x + c.rng.uniform(-0.01, 0.01), y - 0.01 - 0.045 * near)
        tone = hsv(hue + c.rng.normal(0, 0.015), 0.6, c.rng.uniform(0.3, 0.7))
        c.paint(c.stroke([(x, y), tip], 0.002 + 0.004 * near), tone)


def tree(c: Canvas, x: float, foot: float, size: float, hue: float) -> None:
    """A tree of a given height (fraction of the shorter side): leafy or a fir."""
    tall = size * c.short / c.height
    c.shadow(x, foot, 0.28 * size, 0.05 * size)
    c.paint(c.stroke([(x, foot), (x, foot - 0.6 * tall)], 0.09 * size), hsv(0.07, 0.5, 0.32), 0.15)
    if c.rng.random() < 0.35:
        return fir(c, x, foot, size, hue)
    for step in range(34):
        spread = size * c.short / c.width
        dx, dy = c.rng.normal(0, 0.17), c.rng.normal(0, 0.14)
        bright = 0.3 + 0.35 * step / 34 - 0.3 * dy
        tone = hsv(hue + c.rng.normal(0, 0.012), 0.65, bright)
        blob = size * c.rng.uniform(0.07, 0.13)
        c.paint(c.ellipse(x + dx * spread, foot - (0.68 - dy) * tall, blob, 0.8 * blob), tone, 0.14)
    return None


def fir(c: Canvas, x: float, foot: float, size: float, hue: float) -> None:
    """Tiers of branches, light on the left."""
    tall, wide = size * c.short / c.height, size * c.short / c.width
    for tier in range(5):
        y, half = foot - (0.15 + 0.17 * tier) * tall, (0.3 - 0.05 * tier) * wide
        peak, tone = (x, y - 0.3 * tall), 0.28 + 0.04 * tier
        c.paint(c.polygon([(x - half, y), peak, (x + half, y)]), hsv(hue, 0.6, tone), 0.14)
        c.paint(c.polygon([(x - half, y), peak, (x, y)]), hsv(hue, 0.6, tone + 0.12), 0.14)


def house(c: Canvas, x: float, foot: float, size: float) -> None:
    """A house with a roof, a door, windows and a chimney; x is its middle."""
    w, h = 0.5 * size * c.short / c.width, 0.62 * size * c.short / c.height
    wall = hsv(c.rng.uniform(0.02, 0.14), c.rng.uniform(0.1, 0.55), c.rng.uniform(0.7, 0.95))
    roof = hsv(c.rng.uniform(-0.03, 0.05), c.rng.uniform(0.4, 0.7), c.rng.uniform(0.35, 0.6))
    c.shadow(x, foot, 0.62 * size, 0.06 * size)
    c.paint(c.rectangle(x + 0.4 * w, foot - 1.75 * h, x + 0.65 * w, foot - h), roof * 0.8, 0.1)
    c.paint(c.rectangle(x - w, foot - h, x + w, foot), wall, 0.06)
    c.shade(c.rectangle(x + 0.3 * w, foot - h, x + w, foot), -0.18)
    c.paint(
        c.polygon([(x - 1.15 * w, foot - h), (x, foot - 1.7 * h), (x + 1.15 * w, foot - h)]),
        roof,
        0.12,
    )
    for line in np.linspace(0.1, 0.9, 5):
        left, right = x - 1.15 * w * line, x + 1.15 * w * line
        y = foot - 1.7 * h + 0.7 * h * line
        c.paint(c.stroke([(left, y), (right, y)], 0.006 * size), roof * 0.7)
    c.paint(
        c.rectangle(x - 0.16 * w, foot - 0.55 * h, x + 0.16 * w, foot), hsv(0.07, 0.6, 0.35), 0.1
    )
    for side in (-0.62, 0.62):
        window(c, x + side * w, foot - 0.55 * h, 0.22 * w, 0.2 * h)


def window(c: Canvas, x: float, y: float, w: float, h: float) -> None:
    """A window with a frame and a cross; w and h are half sizes."""
    frame = np.array([0.95, 0.94, 0.9], np.float32)
    c.paint(c.rectangle(x - 1.2 * w, y - 1.2 * h, x + 1.2 * w, y + 1.2 * h), frame, 0.02)
    glass = hsv(0.58, 0.5, 0.3), hsv(0.57, 0.35, 0.75)
    c.gradient(c.rectangle(x - w, y - h, x + w, y + h), *glass)
    c.paint(c.stroke([(x, y - h), (x, y + h)], 0.004), frame)
    c.paint(c.stroke([(x - w, y), (x + w, y)], 0.004), frame)


def landscape(c: Canvas) -> None:
    """Mountains in haze, a meadow, a winding path, trees."""
    horizon, hue = c.rng.uniform(0.4, 0.6), c.rng.uniform(0.22, 0.33)
    sky(c, horizon)
    cold = c.rng.uniform(0.55, 0.66)
    for layer in range(3):
        line = ridge(c, horizon - 0.13 + 0.07 * layer, 0.06, 3 + layer)
        c.gradient(
            c.under(line),
            hsv(cold, 0.2 + 0.1 * layer, 0.75 - 0.14 * layer),
            hsv(cold, 0.2, 0.7),
            0.06,
        )
    meadow = c.under(ridge(c, horizon + 0.03, 0.015, 2))
    c.gradient(meadow, hsv(hue, 0.45, 0.68), hsv(hue, 0.65, 0.42), 0.1)
    bend = c.rng.uniform(0.3, 0.7)
    path = [(bend, horizon + 0.08), (bend + 0.015, horizon + 0.08), (0.75, 1.02), (0.35, 1.02)]
    c.paint(c.polygon(path), hsv(0.1, 0.3, 0.72), 0.1)
    grass(c, horizon + 0.1, hue)
    for foot in np.sort(c.rng.uniform(horizon + 0.08, 0.95, c.rng.integers(3, 7))):
        tree(c, c.rng.uniform(0.05, 0.95), foot, 0.12 + 0.7 * (foot - horizon), hue)


def seascape(c: Canvas) -> None:
    """Sea with waves and sailing boats, an island, sometimes a beach."""
    horizon, hue = c.rng.uniform(0.35, 0.55), c.rng.uniform(0.5, 0.6)
    sky(c, horizon)
    island = ridge(c, horizon + 0.01, 0.03, 4) + np.abs(np.linspace(-0.7, 0.5, 65)) * 0.15
    c.paint(c.under(island), hsv(hue, 0.25, 0.5), 0.06)
    c.gradient(c.rectangle(-0.02, horizon, 1.02, 1.02), hsv(hue, 0.35, 0.75), hsv(hue, 0.75, 0.35))
    for y in np.sort(c.rng.uniform(horizon + 0.01, 1.0, 170)):
        near, x = (y - horizon) / (1 - horizon), c.rng.uniform(-0.05, 1)
        length = 0.02 + 0.16 * near * c.rng.random()
        tone = hsv(hue, c.rng.uniform(0.1, 0.6), c.rng.uniform(0.45, 0.98))
        bow = (x + length / 2, y - 0.012 * near)
        c.paint(c.stroke([(x, y), bow, (x + length, y)], 0.002 + 0.006 * near), tone, 0.03, 0.7)
    if c.rng.random() < 0.5:
        sand = c.under(ridge(c, 0.9, 0.02, 2))
        c.gradient(sand, hsv(0.11, 0.25, 0.93), hsv(0.1, 0.4, 0.75), 0.09)
    for y in np.sort(c.rng.uniform(horizon + 0.04, 0.82, c.rng.integers(1, 4))):
        boat(c, c.rng.uniform(0.12, 0.88), y, 0.08 + 0.5 * (y - horizon))


def boat(c: Canvas, x: float, y: float, size: float) -> None:
    """A sailing boat on its reflection."""
    w, h = size * c.short / c.width, size * c.short / c.height
    c.shadow(x, y + 0.16 * h, 0.5 * size, 0.08 * size, 0.35)
    hull = [(x - 0.5 * w, y - 0.1 * h), (x + 0.5 * w, y - 0.1 * h), (x + 0.32 * w, y + 0.1 * h)]
    c.paint(c.polygon([*hull, (x - 0.35 * w, y + 0.1 * h)]), hsv(c.rng.random(), 0.7, 0.55), 0.08)
    c.paint(c.stroke([(x, y - 0.1 * h), (x, y - 1.1 * h)], 0.03 * size), hsv(0.08, 0.5, 0.3))
    sail = hsv(c.rng.random(), c.rng.uniform(0.0, 0.3), 0.96)
    jib = [(x + 0.03 * w, y - 0.15 * h), (x + 0.03 * w, y - 1.05 * h), (x + 0.45 * w, y - 0.2 * h)]
    main = [(x - 0.03 * w, y - 0.15 * h), (x - 0.03 * w, y - 0.95 * h), (x - 0.4 * w, y - 0.2 * h)]
    c.paint(c.polygon(jib), sail, 0.04)
    c.paint(c.polygon(main), sail * 0.85, 0.04)


def village(c: Canvas) -> None:
    """Houses and trees behind a fence."""
    horizon, hue = c.rng.uniform(0.4, 0.52), c.rng.uniform(0.2, 0.33)
    sky(c, horizon)
    c.paint(c.under(ridge(c, horizon - 0.05, 0.04, 3)), hsv(hue + 0.1, 0.3, 0.6), 0.08)
    meadow = c.under(ridge(c, horizon + 0.04, 0.01, 2))
    c.gradient(meadow, hsv(hue, 0.5, 0.65), hsv(hue, 0.65, 0.42), 0.1)
    count = int(c.rng.integers(2, 4))
    for index in c.rng.permutation(count):
        x = (index + 0.5) / count + c.rng.uniform(-0.05, 0.05)
        foot = c.rng.uniform(0.66, 0.78)
        house(c, x, foot, c.rng.uniform(0.75, 1.0) * 0.85 / count)
        tree(c, x + 0.45 / count, foot + 0.03, c.rng.uniform(0.25, 0.4), hue)
    grass(c, 0.8, hue, 160)
    for x in np.linspace(0.02, 0.98, 13):
        c.paint(c.rectangle(x - 0.014, 0.86, x + 0.014, 0.985), hsv(0.1, 0.12, 0.9), 0.06)
    for y in (0.89, 0.95):
        c.paint(c.rectangle(-0.01, y, 1.01, y + 0.015), hsv(0.1, 0.15, 0.82), 0.06)


def skyline(c: Canvas) -> None:
    """Towers at night over water, with lit windows, a moon and reflections."""
    shore, hue = c.rng.uniform(0.62, 0.75), c.rng.uniform(0.6, 0.72)
    dusk = hsv(c.rng.uniform(0.75, 1.08), 0.5, 0.55)
    c.gradient(c.rectangle(-0.02, -0.02, 1.02, shore), hsv(hue, 0.7, 0.16), dusk)
    for _ in range(60):
        c.paint(c.disc(c.rng.random(), c.rng.uniform(0, 0.5), 0.003), (0.95, 0.95, 0.85))
    x, y = c.rng.uniform(0.1, 0.9), c.rng.uniform(0.08, 0.25)
    c.glow(x, y, 0.15, (0.8, 0.85, 1.0), 0.25)
    c.paint(c.disc(x, y, 0.05), (0.96, 0.95, 0.88), 0.05)
    for left in np.sort(c.rng.uniform(-0.05, 0.95, 14)):
        right, top = left + c.rng.uniform(0.07, 0.14), shore - c.rng.uniform(0.12, 0.48)
        tower(c, left, top, right, shore, hsv(hue, 0.35, c.rng.uniform(0.12, 0.3)))
    line = int(shore * c.height)
    mirror = c.pixels[max(2 * line - c.height, 0) : line][::-1] * 0.5
    c.pixels[line : line + len(mirror)] = mirror
    for y in c.rng.uniform(shore, 1.0, 140):
        x, length = c.rng.uniform(-0.05, 1), c.rng.uniform(0.02, 0.12)
        tone = hsv(hue, 0.4, c.rng.uniform(0.1, 0.5))
        c.paint(c.stroke([(x, y), (x + length, y)], 0.003), tone, 0.02, 0.5)


def tower(c: Canvas, left: float, top: float, right: float, foot: float, wall: Image) -> None:
    """A building with a grid of windows, some of them lit."""
    c.gradient(c.rectangle(left, top, right, foot), wall * 1.25, wall * 0.8, 0.05)
    c.shade(c.rectangle(left + 0.7 * (right - left), top, right, foot), -0.25)
    lit = hsv(c.rng.uniform(0.1, 0.16), 0.5, 0.95)
    for y in np.arange(top + 0.03, foot - 0.02, 0.04):
        for x in np.linspace(left, right, 5)[1:-1]:
            tone = lit if c.rng.random() < 0.55 else wall * 0.55
            c.paint(c.rectangle(x - 0.007, y, x + 0.007, y + 0.018), tone)


def street(c: Canvas) -> None:
    """Buildings on both sides of a road with cars and lamps."""
    horizon = c.rng.uniform(0.42, 0.52)
    sky(c, horizon)
    for side in (0, 1):
        edges = np.array([0.0, 0.17, 0.31, 0.42]) * c.rng.uniform(0.9, 1.05)
        for near, (start, end) in enumerate(itertools.pairwise(edges)):
            left, right = (start, end) if side == 0 else (1 - end, 1 - start)
            wall = hsv(c.rng.uniform(0, 0.13), c.rng.uniform(0.1, 0.5), c.rng.uniform(0.4, 0.75))
            top = 0.06 + 0.11 * near + c.rng.uniform(-0.05, 0.05)
            tower(c, left, top, right, horizon + 0.12 - 0.03 * near, wall)
    c.gradient(c.rectangle(-0.02, horizon, 1.02, 1.02), (0.55, 0.53, 0.5), (0.7, 0.68, 0.64), 0.05)
    road = [(0.46, horizon + 0.04), (0.54, horizon + 0.04), (0.95, 1.02), (0.05, 1.02)]
    c.paint(c.polygon(road), hsv(0.6, 0.06, c.rng.uniform(0.28, 0.4)), 0.09)
    for y in np.linspace(horizon + 0.08, 0.94, 6):
        half = 0.004 + 0.014 * (y - horizon)
        dash = [
            (0.5 - half, y),
            (0.5 + half, y),
            (0.5 + 1.3 * half, y + 0.04),
            (0.5 - 1.3 * half, y + 0.04),
        ]
        c.paint(c.polygon(dash), (0.93, 0.92, 0.85))
    for side in (-1, 1):
        y = c.rng.uniform(horizon + 0.17, 0.9)
        car(c, 0.5 + side * 0.6 * (y - horizon) * 0.62, y, 0.1 + 0.5 * (y - horizon))
        lamp(c, 0.5 + side * 0.36, horizon + 0.3)


def lamp(c: Canvas, x: float, foot: float) -> None:
    """A street lamp."""
    iron = (0.18, 0.19, 0.2)
    c.paint(c.stroke([(x, foot), (x, foot - 0.42)], 0.014), iron)
    c.paint(c.disc(x, foot - 0.43, 0.026), (1.0, 0.95, 0.75), 0.02)
    c.paint(c.stroke([(x - 0.025, foot - 0.455), (x + 0.025, foot - 0.455)], 0.014), iron)


def car(c: Canvas, x: float, foot: float, size: float) -> None:
    """A car seen from behind or in front: body, windscreen, lights, wheels."""
    w, h = 0.5 * size * c.short / c.width, 0.62 * size * c.short / c.height
    paint = hsv(c.rng.random(), c.rng.uniform(0.5, 0.9), c.rng.uniform(0.45, 0.85))
    c.shadow(x, foot, 0.6 * size, 0.1 * size, 0.6)
    for side in (-0.68, 0.68):
        c.paint(
            c.ellipse(x + side * w, foot - 0.1 * h, 0.09 * size, 0.12 * size), (0.08, 0.08, 0.08)
        )
    roof = [(x - 0.85 * w, foot - 0.55 * h), (x - 0.6 * w, foot - h), (x + 0.6 * w, foot - h)]
    c.gradient(c.polygon([*roof, (x + 0.85 * w, foot - 0.55 * h)]), paint * 1.1, paint * 0.8)
    glass = [
        (x - 0.7 * w, foot - 0.58 * h),
        (x - 0.52 * w, foot - 0.93 * h),
        (x + 0.52 * w, foot - 0.93 * h),
    ]
    c.gradient(
        c.polygon([*glass, (x + 0.7 * w, foot - 0.58 * h)]),
        hsv(0.57, 0.3, 0.75),
        hsv(0.6, 0.4, 0.25),
    )
    c.gradient(
        c.rectangle(x - w, foot - 0.58 * h, x + w, foot - 0.12 * h), paint * 1.15, paint * 0.6
    )
    light = (0.95, 0.2, 0.15) if c.rng.random() < 0.5 else (1.0, 0.97, 0.85)
    for side in (-0.75, 0.75):
        c.paint(c.ellipse(x + side * w, foot - 0.4 * h, 0.08 * size, 0.05 * size), light)
    plate = c.rectangle(x - 0.22 * w, foot - 0.3 * h, x + 0.22 * w, foot - 0.19 * h)
    c.paint(plate, (0.92, 0.92, 0.86))


def flowers(c: Canvas) -> None:
    """Flowers with stems and leaves before a blurred garden."""
    hue = c.rng.uniform(0.24, 0.36)
    c.gradient(c.everything(), hsv(hue, 0.5, 0.55), hsv(hue, 0.7, 0.22), 0.06)
    for _ in range(18):
        spot = hsv(hue + c.rng.normal(0, 0.05), 0.45, c.rng.uniform(0.3, 0.8))
        c.paint(c.disc(c.rng.random(), c.rng.random(), c.rng.uniform(0.03, 0.1)), spot, 0.02, 0.35)
    grass(c, 0.62, hue, 120)
    petals = c.rng.random()
    for y in np.sort(c.rng.uniform(0.2, 0.7, c.rng.integers(3, 7))):
        flower(c, c.rng.uniform(0.12, 0.88), y, c.rng.uniform(0.1, 0.19), petals, hue)


def flower(c: Canvas, x: float, y: float, size: float, petals: float, hue: float) -> None:
    """One flower: stem, two leaves, a ring of shaded petals, a seeded middle."""
    bend, stem = x + c.rng.uniform(-0.06, 0.06), hsv(hue, 0.65, 0.45)
    c.paint(c.stroke([(x, y), ((x + bend) / 2, (y + 1) / 2), (bend, 1.05)], 0.09 * size), stem, 0.1)
    for side in (-1, 1):
        leaf = (bend + x) / 2 + side * 0.35 * size * c.short / c.width
        c.paint(
            c.ellipse(leaf, (y + 1) / 2, 0.4 * size, 0.13 * size, -0.5 * side), stem * 1.2, 0.14
        )
    count, color = int(c.rng.integers(7, 13)), petals + c.rng.normal(0, 0.04)
    for angle in np.arange(count) * 2 * np.pi / count + c.rng.random():
        px = x + 0.55 * size * np.cos(angle) * c.short / c.width
        py = y + 0.55 * size * np.sin(angle) * c.short / c.height
        bright = 0.85 - 0.12 * np.sin(angle) * np.cos(angle)
        c.paint(
            c.ellipse(px, py, 0.45 * size, 0.17 * size, angle),
            hsv(color, 0.55, bright * 0.75),
            0.06,
        )
        c.paint(c.ellipse(px, py, 0.4 * size, 0.13 * size, angle), hsv(color, 0.5, bright), 0.06)
    c.ball(x, y, 0.27 * size, hsv(0.12, 0.8, 0.8))
    for angle, far in zip(c.rng.uniform(0, 6.28, 22), c.rng.uniform(0, 0.22, 22), strict=True):
        px, py = x + far * size * np.cos(angle) * c.short / c.width, y + far * size * np.sin(angle)
        c.paint(c.disc(px, py, 0.02 * size), hsv(0.08, 0.7, 0.4))
