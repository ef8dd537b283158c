"""The pictures of the demo's films: settings, figures that move in them, and how a film is graded."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from resources.demo.film import HEIGHT, WIDTH
from resources.demo.story import ACTS, DISSOLVE_FRAMES, FPS, MANNERS, SETTINGS, Act, Manner, Scene, Setting, Shot, Story

if TYPE_CHECKING:
    import numpy as np

# Settings are painted larger than the frame, so that the camera has room to move.
_STAGE_W, _STAGE_H = 480, 270


class Look:
    """A shot as it is drawn: a graded stage, figures on it, and a camera that moves over it."""

    def __init__(self, story: Story, shot: Shot) -> None:
        import numpy as np

        scene = story.scenes[shot.scene]
        act = ACTS[scene.act]
        rng = np.random.default_rng([story.seed, story.index, 3, shot.start_frame])
        setting_number = list(SETTINGS).index(scene.setting)
        of_view = np.random.default_rng([story.seed, story.work, 4, setting_number, "AB".index(shot.viewpoint)])
        stage = _stage(SETTINGS[scene.setting], shot.viewpoint, of_view)
        self.shot = shot
        self.grade = _Grade(act, MANNERS[story.genres[0]])
        self.stage = self.grade(stage)
        self.figures = list(_figures(story, scene, shot, self.grade, rng))
        self.zoom = float(rng.uniform(0.72, 0.86))
        self.x, self.y = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.4, 0.6))
        speed = float(rng.uniform(0.6, 1.0)) * float(rng.choice([-1, 1])) * (1.4 if scene.act == "climax" else 1.0)
        self.pan = 0.16 * speed if shot.camera == "pan" else 0.0
        self.push = {"zoom": 0.07 * speed, "push": 0.04}.get(shot.camera, 0.0)

    def frame(self, number: int) -> "np.ndarray":
        """The picture at the film's frame `number` (a little before and after the shot too: dissolves need it)."""
        import numpy as np

        seconds = (number - self.shot.start_frame) / FPS
        zoom = min(max(self.zoom * (1 - self.push * seconds), 0.6), 0.95)
        half = zoom / 2
        x = min(max(self.x + self.pan * seconds, half), 1 - half)
        y = min(max(self.y, half), 1 - half)
        columns = ((x - half + zoom * (np.arange(WIDTH) + 0.5) / WIDTH) * _STAGE_W).astype(np.int64)
        rows = ((y - half + zoom * (np.arange(HEIGHT) + 0.5) / HEIGHT) * _STAGE_H).astype(np.int64)
        picture = self.stage.take(rows, axis=0).take(columns, axis=1)
        for figure in self.figures:
            figure.paste(picture, seconds)
        return picture

    @property
    def brightness(self) -> float:
        return float(self.frame((self.shot.start_frame + self.shot.end_frame) // 2).mean()) / 255

    def part_from(self, before: "Look") -> None:
        """Mirror or relight the shot where it would look like the one before it: a cut is a cut if it can be seen."""
        import numpy as np

        last = _thumbnail(before.frame(before.shot.end_frame - 1))
        stage = self.stage

        def difference(candidate: np.ndarray) -> float:
            self.stage = candidate
            return float(np.abs(_thumbnail(self.frame(self.shot.start_frame)) - last).mean())

        if difference(stage) >= 30:
            return
        lighter = np.minimum(stage * 1.3 + 12, 255).astype(np.uint8)
        darker = (stage * 0.7).astype(np.uint8)
        candidates = [stage, stage[:, ::-1], lighter, lighter[:, ::-1], darker, darker[:, ::-1]]
        self.stage = max(candidates, key=difference)


def pictures(story: Story, looks: "Sequence[Look]") -> "Iterator[np.ndarray]":
    import numpy as np

    half = DISSOLVE_FRAMES // 2
    for number, look in enumerate(looks):
        following = looks[number + 1] if number + 1 < len(looks) else None
        for frame in range(look.shot.start_frame, look.shot.end_frame):
            mixed, share = None, 0.0
            if look.shot.dissolve and frame < look.shot.start_frame + half:
                mixed = looks[number - 1]
                share = 1 - (frame - look.shot.start_frame + half + 0.5) / DISSOLVE_FRAMES
            elif following is not None and following.shot.dissolve and frame >= look.shot.end_frame - half:
                mixed = following
                share = (frame - look.shot.end_frame + half + 0.5) / DISSOLVE_FRAMES
            picture = look.frame(frame)
            if mixed is not None:
                other = mixed.frame(frame)
                picture = np.rint((1 - share) * picture + share * other.astype(np.float32)).astype(np.uint8)
            yield picture


class _Grade:
    """The look of an act and a genre, as a film lab would print it: exposure, contrast, saturation, tint."""

    def __init__(self, act: Act, manner: Manner) -> None:
        import numpy as np

        warm = np.array([1 + act.warmth, 1.0, 1 - act.warmth], np.float32)
        self.gain = warm * np.array(manner.tint, np.float32) * act.exposure
        self.contrast, self.saturation = manner.contrast, act.saturation

    def __call__(self, picture: "np.ndarray") -> "np.ndarray":
        import numpy as np

        grey = picture.mean(axis=-1, keepdims=True)
        picture = (grey + (picture - grey) * self.saturation) * self.gain
        return np.clip((picture - 110) * self.contrast + 110, 4, 251).astype(np.uint8)


def _thumbnail(picture: "np.ndarray") -> "np.ndarray":
    import numpy as np

    blocks = picture.reshape(HEIGHT // 8, 8, WIDTH // 8, 8, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _noise(rng: "np.random.Generator", height: int, width: int, cells: int) -> "np.ndarray":
    """Smooth value noise in [-1, 1], three octaves, about `cells` bumps across."""
    import numpy as np

    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        n = cells * 2**octave
        grid = rng.uniform(-1, 1, (n + 2, n + 2)).astype(np.float32)
        y, x = np.linspace(0, n, height, endpoint=False), np.linspace(0, n, width, endpoint=False)
        j, i = y.astype(int), x.astype(int)
        v, u = (y - j).astype(np.float32)[:, None], (x - i).astype(np.float32)
        upper, lower = grid[j], grid[j + 1]
        top = upper[:, i] * (1 - u) + upper[:, i + 1] * u
        total += (top * (1 - v) + (lower[:, i] * (1 - u) + lower[:, i + 1] * u) * v) / 2**octave
    return total / 1.75


def _stage(setting: Setting, viewpoint: str, rng: "np.random.Generator") -> "np.ndarray":
    """A setting as one camera sees it: float32 (_STAGE_H, _STAGE_W, 3), before grading."""
    import numpy as np

    h, w = _STAGE_H, _STAGE_W
    back, ground, things = (np.array(c, np.float32) for c in (setting.back, setting.ground, setting.things))
    if viewpoint == "B":
        # The reverse angle looks away from the light, at another wall.
        back, things = 0.55 * back + 0.25 * things, 0.5 * things + 0.55 * back
    horizon = int(h * rng.uniform(0.52, 0.72))
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    picture = np.empty((h, w, 3), np.float32)
    picture[:] = back * (0.75 + 0.45 * rows)
    picture[horizon:] = ground * (0.8 + 0.5 * (rows[horizon:] - horizon / h))

    def box(x: float, y: float, width: float, height: float, colour: "np.ndarray") -> None:
        top, left = max(int(y), 0), max(int(x), 0)
        picture[top : max(int(y + height), top), left : max(int(x + width), left)] = colour

    def shade(low: float = 0.6, high: float = 1.3) -> "np.ndarray":
        return things * rng.uniform(low, high) + rng.normal(0, 14, 3).astype(np.float32)

    columns = np.arange(w, dtype=np.float32)
    if setting.layout == "indoor":
        for _ in range(int(rng.integers(1, 4))):
            x, width = rng.uniform(0, w), rng.uniform(40, 90)
            box(x, 30, width, horizon * 0.5, back * 0.5)
            box(x + 4, 34, width - 8, horizon * 0.5 - 8, np.array([235, 240, 225], np.float32))
        for _ in range(int(rng.integers(3, 6))):
            height = rng.uniform(40, 110)
            box(rng.uniform(-20, w), horizon + 24 - height, rng.uniform(40, 120), height, shade())
        picture[horizon::14] *= 0.85
    elif setting.layout == "urban":
        x = -10.0
        while x < w:
            width, height = rng.uniform(40, 100), rng.uniform(0.4, 0.95) * horizon
            wall = shade(0.5, 1.3)
            box(x, horizon - height, width, height, wall)
            lit = wall * 0.45 if rng.random() < 0.5 else np.minimum(wall * 1.7, 250)
            for yy in np.arange(horizon - height + 8, horizon - 14, 20):
                for xx in np.arange(x + 6, x + width - 10, 16):
                    box(xx, yy, 8, 10, lit)
            x += width + rng.uniform(0, 14)
        for xx in range(0, w, 60):
            box(xx, horizon + (h - horizon) * 0.5, 30, 4, np.minimum(ground * 1.9, 250))
    elif setting.layout == "nature":
        for ridge in range(3):
            edge = horizon - 60 + 30 * ridge + 40 * _noise(rng, 1, w, 3 + ridge)[0]
            below = np.arange(h)[:, None] > edge
            picture[below] = (back * (0.55 - 0.1 * ridge) + ground * (0.45 + 0.1 * ridge)) * rng.uniform(0.8, 1.1)
        for _ in range(int(rng.integers(6, 14))):
            x, foot, height = rng.uniform(0, w), rng.uniform(horizon, h), rng.uniform(70, 170)
            colour = shade(0.6, 1.2)
            for y in range(max(int(foot - height), 0), int(foot)):
                spread = 0.28 * (y - foot + height)
                picture[y, max(int(x - spread), 0) : max(int(x + spread), 0)] = colour
    elif setting.layout == "water":
        ripple = _noise(rng, h - horizon, w // 6, 14).repeat(6, axis=1)[:, :w]
        picture[horizon:] += 26 * ripple[..., None]
        for _ in range(int(rng.integers(2, 5))):
            x, foot, size = rng.uniform(20, w - 20), horizon + rng.uniform(4, 40), rng.uniform(50, 130)
            colour = shade()
            for y in range(max(int(foot - size), 0), int(foot)):
                picture[y, int(x) : int(x + 0.5 * (y - foot + size))] = np.minimum(colour * 1.5, 250)
            box(x - size * 0.4, foot, size * 1.1, size * 0.22, colour)
        distance = np.hypot(columns - rng.uniform(0, w), np.arange(h)[:, None] - rng.uniform(20, 80))
        picture[distance < 26] = (250, 240, 200)
    else:
        for _ in range(120):
            box(rng.uniform(0, w), rng.uniform(0, horizon), 2, 2, np.array([220, 225, 240], np.float32))
        for _ in range(int(rng.integers(2, 4))):
            distance = np.hypot(columns - rng.uniform(0, w), np.arange(h)[:, None] - rng.uniform(30, horizon))
            radius = rng.uniform(25, 70)
            picture[distance < radius] = shade(0.5, 1.3)
            picture[(distance > radius) & (distance < radius + 6)] = np.minimum(things * 1.4, 250)
        for x in np.arange(rng.uniform(0, 50), w, 70):
            box(x, horizon - 10, 12, h - horizon + 10, shade(0.3, 0.6))

    picture *= 1 + 0.22 * _noise(rng, h, w, 7)[..., None]
    picture *= 1 + 0.03 * rng.standard_normal((h, w, 1), dtype=np.float32)
    light = np.linspace(0.72, 1.22, w, dtype=np.float32)
    picture *= (light if (viewpoint == "A") == (rng.random() < 0.8) else light[::-1])[:, None]
    return np.clip(picture, 0, 255)


class _Figure:
    """A person cut out of paper: head, hair, shoulders and coat, who sways, or walks through the frame."""

    def __init__(
        self, height: int, x: float, walk: float, coat: "np.ndarray", skin: "np.ndarray", grade: _Grade
    ) -> None:
        import numpy as np

        width = int(height * 0.5)
        y, x_grid = np.mgrid[0:height, 0:width].astype(np.float32) / height
        x_grid -= 0.25
        head = ((x_grid / 0.11) ** 2 + ((y - 0.17) / 0.15) ** 2) < 1
        hair = head & (y < 0.13 + 0.3 * np.abs(x_grid))
        body = (y > 0.31) & (np.abs(x_grid) < np.minimum(0.09 + 0.5 * (y - 0.31), 0.22))
        sprite = np.zeros((height, width, 3), np.float32)
        sprite[body] = coat
        sprite *= (1.15 - 0.9 * np.abs(x_grid))[..., None]
        sprite[head] = skin
        sprite[hair] = coat * 0.35
        self.mask = head | body
        self.pixels = grade(sprite)
        self.height, self.width, self.x, self.walk = height, width, x, walk

    def paste(self, picture: "np.ndarray", seconds: float) -> None:
        import numpy as np

        sway = 0.01 * math.sin(2.4 * seconds + 9 * self.x)
        left = round((self.x + sway + self.walk * seconds) * WIDTH - self.width / 2)
        top = HEIGHT - self.height + round(0.03 * self.height * (1 + math.sin(3.1 * seconds)) / 2)
        x0, x1, y0, y1 = max(left, 0), min(left + self.width, WIDTH), max(top, 0), min(top + self.height, HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        np.copyto(picture[y0:y1, x0:x1], self.pixels[inside], where=self.mask[inside][..., None])


def _figures(story: Story, scene: Scene, shot: Shot, grade: _Grade, rng: "np.random.Generator") -> Iterator[_Figure]:
    """Dialogue: one speaker, near, on the left in A and on the right in B. Else up to three people on their way."""
    import numpy as np

    of_cast = np.random.default_rng([story.seed, story.work, 5])
    coats, skins = of_cast.uniform(30, 235, (3, 3)), of_cast.uniform(0.45, 1.0, (3, 1)) * np.array([[236, 190, 160]])
    if scene.sound == "dialogue":
        who = "AB".index(shot.viewpoint)
        x = 0.36 if shot.viewpoint == "A" else 0.64
        yield _Figure(int(rng.integers(118, 142)), x, 0.0, coats[who], skins[who], grade)
        return
    haste = 0.09 if scene.act == "climax" else 0.04
    for who in range(int(rng.integers(0, 4))):
        walk = float(rng.choice([-1, 1])) * haste
        yield _Figure(int(rng.integers(46, 92)), float(rng.uniform(0.1, 0.9)), walk, coats[who], skins[who], grade)
