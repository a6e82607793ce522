"""Procedural scenes of things, people and animals close by."""

import numpy as np

from ma_agiqa.data.synthetic.canvas import Canvas, Image, hsv
from ma_agiqa.data.synthetic.outdoor import window


def wooden(c: Canvas, top: float, hue: float) -> None:
    """A table or floor of boards from a height down to the lower edge."""
    c.gradient(c.rectangle(-0.02, top, 1.02, 1.02), hsv(hue, 0.5, 0.62), hsv(hue, 0.6, 0.42), 0.06)
    for y in np.sort(c.rng.uniform(top, 1.0, 60)):
        x, tone = c.rng.uniform(-0.2, 1), hsv(hue, 0.6, c.rng.uniform(0.3, 0.6))
        c.paint(c.stroke([(x, y), (x + c.rng.uniform(0.1, 0.5), y)], 0.003), tone, 0.1, 0.5)
    for x in np.linspace(-0.6, 1.6, 12):
        c.paint(c.stroke([(0.5 + 0.5 * (x - 0.5), top), (x, 1.02)], 0.004), hsv(hue, 0.6, 0.25))


def wall(c: Canvas, foot: float) -> None:
    """A papered wall: plain, striped or dotted."""
    hue, pale = c.rng.random(), c.rng.uniform(0.08, 0.35)
    c.gradient(
        c.rectangle(-0.02, -0.02, 1.02, foot), hsv(hue, pale, 0.85), hsv(hue, pale, 0.68), 0.02
    )
    pattern = c.rng.choice(["plain", "stripes", "dots"])
    if pattern == "stripes":
        for x in np.arange(0, 1, 0.08):
            c.shade(c.rectangle(x, -0.02, x + 0.03, foot), -0.07)
    if pattern == "dots":
        for row, y in enumerate(np.arange(0.03, foot, 0.09)):
            for x in np.arange(0.04 * (row % 2), 1, 0.08):
                c.shade(c.disc(x, y, 0.008), -0.15)


def box(c: Canvas, x: float, foot: float, size: float, color: Image) -> None:
    """A box with a front, a side and a lid."""
    w, h = 0.5 * size * c.short / c.width, size * c.short / c.height
    c.shadow(x + 0.3 * w, foot, 0.75 * size, 0.12 * size)
    c.gradient(c.rectangle(x - w, foot - h, x + w, foot), color, color * 0.8, 0.05)
    back = (x + 1.45 * w, foot - 1.2 * h)
    side = [(x + w, foot), (x + w, foot - h), back, (x + 1.45 * w, foot - 0.25 * h)]
    c.paint(c.polygon(side), color * 0.5, 0.05)
    lid = [(x - w, foot - h), (x + w, foot - h), back, (x - 0.55 * w, foot - 1.2 * h)]
    c.paint(c.polygon(lid), np.minimum(color * 1.25, 1.0), 0.05)
    c.shade(c.rectangle(x - 0.12 * w, foot - h, x + 0.12 * w, foot), 0.3)


def bottle(c: Canvas, x: float, foot: float, size: float, hue: float) -> None:
    """A glass bottle with a label and highlights."""
    w, h = 0.22 * size * c.short / c.width, size * c.short / c.height
    c.shadow(x + 0.5 * w, foot, 0.3 * size, 0.07 * size)
    outline = [(-1, 0), (1, 0), (1, -0.6), (0.35, -0.78), (0.35, -1), (-0.35, -1), (-0.35, -0.78)]
    shape = [(x + a * w, foot + b * h) for a, b in [*outline, (-1, -0.6)]]
    c.gradient(c.polygon(shape), hsv(hue, 0.6, 0.5), hsv(hue, 0.75, 0.28), 0.03)
    c.paint(c.rectangle(x - w, foot - 0.45 * h, x + w, foot - 0.15 * h), (0.93, 0.9, 0.8), 0.04)
    for line in (0.38, 0.32, 0.26):
        y = foot - line * h
        c.paint(c.stroke([(x - 0.6 * w, y), (x + 0.6 * w, y)], 0.012 * size), hsv(0.05, 0.6, 0.35))
    c.shade(c.rectangle(x - 0.75 * w, foot - 0.6 * h, x - 0.5 * w, foot), 0.5)
    c.shade(c.rectangle(x + 0.55 * w, foot - 0.6 * h, x + w, foot), -0.35)


def vase(c: Canvas, x: float, foot: float, size: float, hue: float) -> None:
    """A painted vase with a few twigs."""
    w, h = size * c.short / c.width, size * c.short / c.height
    for angle in np.linspace(-0.7, 0.7, 6) + c.rng.normal(0, 0.08, 6):
        tip = (x + 0.7 * w * np.sin(angle), foot - 0.75 * h - 0.6 * h * np.cos(angle))
        c.paint(c.stroke([(x, foot - 0.7 * h), tip], 0.02 * size), hsv(0.28, 0.5, 0.35))
        c.ball(*tip, 0.08 * size, hsv(hue + 0.4 + c.rng.normal(0, 0.05), 0.65, 0.9))
    c.shadow(x + 0.1 * w, foot, 0.36 * size, 0.08 * size)
    c.ball(x, foot - 0.32 * h, 0.33 * size, hsv(hue, 0.6, 0.8), squash=1.05)
    neck = [(x - 0.14 * w, foot - 0.55 * h), (x - 0.2 * w, foot - 0.8 * h)]
    c.paint(
        c.polygon([*neck, (x + 0.2 * w, neck[1][1]), (x + 0.14 * w, neck[0][1])]),
        hsv(hue, 0.6, 0.6),
    )
    for turn in np.linspace(-0.22, 0.22, 7):
        c.paint(c.disc(x + turn * w, foot - 0.3 * h, 0.025 * size), (0.95, 0.93, 0.85))


def still_life(c: Canvas) -> None:
    """Fruit, boxes, bottles and vases on a wooden table."""
    edge = c.rng.uniform(0.5, 0.62)
    wall(c, edge)
    wooden(c, edge, c.rng.uniform(0.04, 0.1))
    back = np.linspace(0.15, 0.85, 4) + c.rng.normal(0, 0.03, 4)
    for x in c.rng.permutation(back)[: c.rng.integers(2, 4)]:
        thing = c.rng.choice([0, 1, 2])
        foot, size = edge + c.rng.uniform(0.06, 0.14), c.rng.uniform(0.32, 0.46)
        if thing == 0:
            bottle(c, x, foot, size * 1.15, c.rng.random())
        elif thing == 1:
            vase(c, x, foot, size, c.rng.random())
        else:
            box(c, x, foot, size * 0.6, hsv(c.rng.random(), 0.5, 0.75))
    for y in np.sort(c.rng.uniform(edge + 0.2, 0.9, c.rng.integers(3, 7))):
        fruit(c, c.rng.uniform(0.1, 0.9), y, c.rng.uniform(0.06, 0.1))


def fruit(c: Canvas, x: float, y: float, radius: float) -> None:
    """A round fruit with a stalk and its shadow."""
    c.shadow(x + 0.3 * radius, y + 0.85 * radius * c.short / c.height, 1.1 * radius, 0.3 * radius)
    hue = c.rng.choice([0.0, 0.03, 0.08, 0.14, 0.25, 0.8])
    c.ball(x, y, radius, hsv(hue, 0.8, 0.85), squash=c.rng.uniform(0.9, 1.05))
    top = y - 0.8 * radius * c.short / c.height
    c.paint(
        c.stroke([(x, top), (x + 0.01, top - 0.4 * radius)], 0.14 * radius), hsv(0.08, 0.6, 0.25)
    )


def interior(c: Canvas) -> None:
    """A room with a window, a picture, a sofa, a rug and a lamp."""
    edge = c.rng.uniform(0.6, 0.7)
    wall(c, edge)
    wooden(c, edge, c.rng.uniform(0.05, 0.09))
    c.paint(c.rectangle(-0.02, edge - 0.03, 1.02, edge), (0.93, 0.92, 0.88), 0.02)
    hue, left = c.rng.random(), bool(c.rng.random() < 0.5)
    x = 0.26 if left else 0.74
    c.gradient(c.rectangle(x - 0.17, 0.1, x + 0.17, 0.46), hsv(0.57, 0.5, 0.9), hsv(0.3, 0.5, 0.6))
    for dx in (-0.085, 0.085):
        window(c, x + dx, 0.28, 0.065, 0.14)
    for dx in (-0.2, 0.2):
        c.gradient(
            c.rectangle(x + dx - 0.05, 0.06, x + dx + 0.05, 0.58),
            hsv(hue, 0.5, 0.8),
            hsv(hue, 0.6, 0.5),
            0.07,
        )
    picture(c, 1 - x, 0.24)
    c.paint(c.ellipse(0.5, 0.88, 0.42, 0.1), hsv(hue + 0.5, 0.5, 0.55), 0.1)
    c.paint(c.ellipse(0.5, 0.88, 0.34, 0.075), hsv(hue + 0.45, 0.4, 0.75), 0.1)
    sofa(c, 1 - x + (0.03 if left else -0.03), edge + 0.14, hue)
    floor_lamp(c, x, edge + 0.08)


def picture(c: Canvas, x: float, y: float) -> None:
    """A framed small landscape."""
    c.shade(c.rectangle(x - 0.14, y - 0.11, x + 0.15, y + 0.13), -0.3)
    c.paint(c.rectangle(x - 0.15, y - 0.12, x + 0.14, y + 0.11), hsv(0.1, 0.6, 0.45), 0.1)
    c.gradient(
        c.rectangle(x - 0.13, y - 0.1, x + 0.12, y + 0.09), hsv(0.58, 0.4, 0.9), hsv(0.1, 0.4, 0.9)
    )
    hill = [
        (x - 0.13, y + 0.09),
        (x - 0.05, y - 0.03),
        (x + 0.03, y + 0.05),
        (x + 0.08, y),
        (x + 0.12, y + 0.09),
    ]
    c.paint(c.polygon(hill), hsv(0.3, 0.5, 0.4), 0.1)


def sofa(c: Canvas, x: float, foot: float, hue: float) -> None:
    """A sofa with arms and two cushions."""
    cloth = hsv(hue + 0.3, 0.45, 0.6)
    c.shadow(x, foot, 0.32, 0.05, 0.5)
    c.gradient(
        c.rectangle(x - 0.27, foot - 0.3, x + 0.27, foot - 0.08), cloth * 1.15, cloth * 0.8, 0.08
    )
    c.gradient(c.rectangle(x - 0.27, foot - 0.14, x + 0.27, foot), cloth * 1.2, cloth * 0.6, 0.08)
    c.paint(c.stroke([(x, foot - 0.28), (x, foot - 0.02)], 0.006), cloth * 0.5)
    for side in (-1, 1):
        arm = c.rectangle(x + side * 0.27 - 0.04, foot - 0.2, x + side * 0.27 + 0.04, foot)
        c.gradient(arm, cloth * 1.25, cloth * 0.6, 0.08)
        c.ball(x + side * 0.14, foot - 0.17, 0.065, hsv(hue + 0.6 + 0.1 * side, 0.6, 0.8), 0.9)


def floor_lamp(c: Canvas, x: float, foot: float) -> None:
    """A lit lamp on a stand."""
    c.shadow(x, foot, 0.08, 0.02)
    c.paint(c.stroke([(x, foot), (x, foot - 0.38)], 0.014), (0.2, 0.18, 0.16))
    shade = [
        (x - 0.05, foot - 0.52),
        (x + 0.05, foot - 0.52),
        (x + 0.09, foot - 0.36),
        (x - 0.09, foot - 0.36),
    ]
    c.gradient(c.polygon(shade), (0.95, 0.8, 0.5), (1.0, 0.93, 0.72), 0.03)
    c.glow(x, foot - 0.4, 0.2, (1.0, 0.85, 0.6), 0.15)


def portrait(c: Canvas) -> None:
    """A face with hair, eyes, nose and mouth before a soft background."""
    hue, skin_tone = c.rng.random(), c.rng.uniform(0.45, 0.95)
    c.gradient(c.everything(), hsv(hue, 0.35, 0.8), hsv(hue, 0.45, 0.4), 0.04)
    c.glow(c.rng.uniform(0.1, 0.9), 0.2, 0.4, (1, 1, 1), 0.15)
    skin = hsv(c.rng.uniform(0.05, 0.085), c.rng.uniform(0.3, 0.55), skin_tone)
    hair = hsv(c.rng.uniform(0.03, 0.13), c.rng.uniform(0.2, 0.7), c.rng.uniform(0.12, 0.6))
    x, y, size = 0.5 + c.rng.uniform(-0.06, 0.06), 0.45, c.rng.uniform(0.27, 0.33)
    w, h = size * c.short / c.width, size * c.short / c.height
    cloth = hsv(hue + 0.5, 0.6, 0.6)
    c.paint(
        c.ellipse(x, y + 0.9 * h, 1.15 * size, 1.6 * size), hair, 0.15, float(c.rng.random() < 0.5)
    )
    shoulders = [(-1.9, 2.6), (-1.6, 1.65), (-0.5, 1.2), (0.5, 1.2), (1.6, 1.65), (1.9, 2.6)]
    c.paint(c.polygon([(x + a * w, y + b * h) for a, b in shoulders]), cloth, 0.1)
    c.paint(c.ellipse(x, y - 0.15 * h, 0.98 * size, 1.2 * size), hair, 0.15)
    c.paint(c.rectangle(x - 0.32 * w, y + 0.7 * h, x + 0.32 * w, y + 1.35 * h), skin * 0.75, 0.03)
    for side in (-1, 1):
        c.paint(
            c.ellipse(x + side * 0.78 * w, y + 0.1 * h, 0.12 * size, 0.2 * size), skin * 0.85, 0.03
        )
    c.ball_matt(x, y + 0.05 * h, 0.78 * size, skin, 1.3)
    face(c, x, y, w, h, size, skin, hair)
    for lock in np.linspace(-0.75, 0.75, 26):
        root = (x + 0.3 * lock * w, y - 1.25 * h)
        tip = (x + lock * w, y - (0.72 - 0.25 * abs(lock)) * h + c.rng.uniform(-0.06, 0.06))
        c.paint(c.stroke([root, tip], 0.12 * size), hair * c.rng.uniform(0.8, 1.3), 0.12)


def face(
    c: Canvas, x: float, y: float, w: float, h: float, size: float, skin: Image, hair: Image
) -> None:
    """Eyes, brows, nose and mouth; w and h are the head's half width and height."""
    iris = hsv(c.rng.uniform(0.05, 0.6), 0.6, 0.45)
    for side in (-1, 1):
        ex, ey = x + side * 0.33 * w, y - 0.02 * h
        c.paint(c.ellipse(ex, ey, 0.17 * size, 0.1 * size), (0.97, 0.96, 0.94), 0.01)
        c.paint(c.disc(ex, ey, 0.085 * size), iris, 0.05)
        c.paint(c.disc(ex, ey, 0.042 * size), (0.04, 0.03, 0.03))
        c.paint(c.disc(ex - 0.03 * w, ey - 0.03 * h, 0.02 * size), (1.0, 1.0, 1.0))
        lid = [(ex - 0.17 * w, ey), (ex, ey - 0.1 * h), (ex + 0.17 * w, ey)]
        c.paint(c.stroke(lid, 0.025 * size), skin * 0.35)
        brow = [(ex - 0.2 * w, ey - 0.18 * h), (ex, ey - 0.25 * h), (ex + 0.2 * w, ey - 0.18 * h)]
        c.paint(c.stroke(brow, 0.055 * size), hair * 0.8, 0.1)
        c.paint(
            c.ellipse(x + side * 0.42 * w, y + 0.38 * h, 0.16 * size, 0.11 * size),
            (0.9, 0.4, 0.35),
            0.02,
            0.22,
        )
    nose = [(x + 0.03 * w, y), (x + 0.13 * w, y + 0.36 * h), (x - 0.1 * w, y + 0.38 * h)]
    c.paint(c.stroke(nose, 0.03 * size), skin * 0.62)
    smile, my = c.rng.uniform(0.02, 0.12), y + 0.65 * h
    lips = [
        (x - 0.3 * w, my - smile * h),
        (x, my - 0.05 * h),
        (x + 0.3 * w, my - smile * h),
        (x, my + 0.13 * h),
    ]
    c.paint(c.polygon(lips), hsv(0.99, 0.55, 0.7), 0.05)
    c.paint(c.stroke([lips[0], (x, my + 0.01 * h), lips[2]], 0.02 * size), hsv(0.99, 0.6, 0.3))


def cat(c: Canvas) -> None:
    """A sitting cat, striped or plain, in a room."""
    edge = c.rng.uniform(0.55, 0.68)
    wall(c, edge)
    wooden(c, edge, c.rng.uniform(0.04, 0.1))
    fur = hsv(c.rng.uniform(0.05, 0.1), c.rng.uniform(0.1, 0.65), c.rng.uniform(0.35, 0.85))
    x, w, h = 0.5 + c.rng.uniform(-0.1, 0.1), c.short / c.width, c.short / c.height
    c.shadow(x, 0.92, 0.34, 0.06, 0.6)
    tail = [(x + 0.2 * w, 0.9), (x + 0.36 * w, 0.8), (x + 0.36 * w, 0.62), (x + 0.3 * w, 0.55)]
    c.paint(c.stroke(tail, 0.06), fur * 0.85, 0.16)
    c.ball_matt(x, 0.92 - 0.27 * h, 0.23, fur, 1.2)
    for side in (-1, 1):
        c.ball_matt(x + side * 0.13 * w, 0.9, 0.09, fur, 0.6)
        ear = [(side * 0.2, -0.12), (side * 0.19, -0.34), (side * 0.05, -0.2)]
        points = [(x + a * w, 0.92 - 0.58 * h + b * h) for a, b in ear]
        c.paint(c.polygon(points), fur * 0.9, 0.12)
        inner = np.mean(points, 0) + 0.6 * (np.array(points) - np.mean(points, 0))
        c.paint(c.polygon(inner), (0.85, 0.55, 0.5), 0.05)
    muzzle(c, x, 0.92 - 0.58 * h, w, h, fur)
    for dy in np.linspace(0.12, 0.42, 6):
        for side in (-1, 1):
            mark = [(x + side * 0.21 * w, 0.92 - dy * h), (x + side * 0.1 * w, 0.9 - dy * h)]
            c.paint(c.stroke(mark, 0.018), fur * 0.45, 0.15)


def muzzle(c: Canvas, x: float, y: float, w: float, h: float, fur: Image) -> None:
    """A cat's head with eyes, nose and whiskers."""
    c.ball_matt(x, y, 0.2, fur, 0.88)
    for dx in (-0.05, 0.0, 0.05):
        c.paint(
            c.stroke([(x + dx * w, y - 0.17 * h), (x + dx * w, y - 0.09 * h)], 0.014), fur * 0.45
        )
    eye = hsv(c.rng.uniform(0.12, 0.4), 0.75, 0.8)
    for side in (-1, 1):
        ex, ey = x + side * 0.085 * w, y - 0.02 * h
        c.paint(c.ellipse(ex, ey, 0.045, 0.037), eye, 0.03)
        c.paint(c.ellipse(ex, ey, 0.012, 0.034), (0.03, 0.03, 0.03))
        c.paint(c.disc(ex - 0.012 * w, ey - 0.012 * h, 0.009), (1.0, 1.0, 1.0))
        c.paint(
            c.ellipse(x + side * 0.035 * w, y + 0.09 * h, 0.05, 0.038), (0.96, 0.93, 0.88), 0.05
        )
        for dy in (-0.02, 0.0, 0.02):
            whisker = [
                (x + side * 0.06 * w, y + 0.09 * h),
                (x + side * 0.27 * w, y + (0.08 + 2 * dy) * h),
            ]
            c.paint(c.stroke(whisker, 0.004), (0.97, 0.97, 0.97))
    nose = [(x - 0.025 * w, y + 0.05 * h), (x + 0.025 * w, y + 0.05 * h), (x, y + 0.08 * h)]
    c.paint(c.polygon(nose), (0.8, 0.4, 0.4), 0.03)
