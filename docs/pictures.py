"""Draw ``docs/house.svg`` and ``docs/pipeline.svg``: ``.venv/bin/python docs/pictures.py``."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
INK, FAINT, LINE = "#1f2933", "#52606d", "#7b8794"
GREY, BLUE, GREEN, AMBER, ROSE = "#f1f3f5", "#e3f0fb", "#e5f5e9", "#fdf3d8", "#fbe6ea"


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and lines under it."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    fill: str = GREY
    dashed: bool = False

    def svg(self) -> list[str]:
        """Its elements."""
        left, dash = self.x + 12, ' stroke-dasharray="5 4"' if self.dashed else ""
        parts = [
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="8" '
            f'fill="{self.fill}" stroke="{LINE}"{dash}/>',
            text(left, self.y + 23, self.title, 15, INK, bold=True),
        ]
        return parts + [text(left, self.y + 44 + 18 * i, line, 12.5, FAINT) for i, line in enumerate(self.lines)]


def text(
    x: float, y: float, words: str, size: float, colour: str, bold: bool = False, anchor: str = "start"
) -> str:
    """One line of words."""
    weight = ' font-weight="600"' if bold else ""
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x}" y="{y}" {look}>{escape(words)}</text>'


def arrow(points: list[tuple[int, int]], dashed: bool = False) -> list[str]:
    """A line through points with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    look = f'fill="none" stroke="{INK}" stroke-width="1.4"{dash} marker-end="url(#head)"'
    return [f'<polyline points="{path}" {look}/>']


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """The whole file."""
    family = "Inter, Helvetica, Arial, sans-serif"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="{family}" role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>\n'
    )
    return head + "\n".join([text(24, 34, title, 19, INK, bold=True), *parts]) + "\n</svg>\n"


def house() -> str:
    """Three packages, their rooms, and who may import whom."""
    services = Box(24, 76, 900, 284, "services: what users and machines call", fill=AMBER)
    below = [
        Box(44, 108, 390, 56, "shell", ("the stylereel command",), "white"),
        Box(450, 108, 454, 56, "demo", ("one real clip through everything",), "white"),
        Box(44, 170, 390, 56, "serving", ("BentoML, routes, jobs (dbos), engine, slots",), "white"),
        Box(450, 170, 454, 56, "stages", ("of dvc.yaml: prepare, encoders, evaluate",), "white"),
        Box(44, 232, 280, 56, "adaptation", ("a generator learns a face",), "white"),
        Box(340, 232, 270, 56, "edits", ("learned, set to units, measured",), "white"),
        Box(626, 232, 278, 56, "evaluation", ("reconstruction, Table 1, video",), "white"),
        Box(44, 294, 400, 56, "pipeline", ("align, invert, edit, composite, stream",), "white"),
        Box(460, 294, 200, 56, "training", ("Trainer, runs, resume",), "white"),
        Box(676, 294, 228, 56, "registry", ("MLflow: gate, promote",), "white"),
    ]
    modules = Box(24, 384, 900, 236, "modules: networks; of datamodules they use only the types", fill=GREEN)
    rooms = [
        Box(44, 424, 130, 64, "lit", ("what is trained",), "white"),
        Box(210, 424, 150, 64, "losses", ("perceptual, face",), "white"),
        Box(376, 424, 170, 64, "metrics", ("fidelity, face",), "white"),
        Box(562, 424, 180, 74, "editing", ("directions, balance,", "boundaries"), "white"),
        Box(210, 524, 150, 76, "generators", ("MobileStyleGAN,", "StyleGAN2, -3"), "white"),
        Box(376, 524, 170, 76, "encoders", ("FrEN, ViEN, restoring;", "pSp, e4e, ReStyle"), "white"),
        Box(562, 524, 180, 76, "perception", ("mesh, identity, age,", "parsing, detection"), "white"),
        Box(776, 524, 130, 76, "ops", ("modulated conv,", "upfirdn, wavelets"), "white"),
        Box(776, 424, 130, 64, "assets", ("fetch and verify",), "white"),
    ]
    data = Box(24, 658, 900, 84, "datamodules: video in, batches out", (
        "types · video_read, video_write (exact rates, audio copied) · shots · alignment (crop and inverse)",
        "clips, shards, people (split by person), face_video (DataModule) · samples, mixture, latents · images",
    ), BLUE)  # fmt: skip
    parts = [line for box in (services, modules, data, *below, *rooms) for line in box.svg()]
    parts += arrow([(480, 360), (480, 384)]) + arrow([(480, 620), (480, 658)], dashed=True)
    parts += arrow([(924, 330), (940, 350), (940, 700), (924, 700)])
    parts += arrow([(174, 456), (210, 456)])
    for x, y in ((285, 488), (461, 488), (652, 498)):
        parts += arrow([(x, y), (x, 524)])
    parts += arrow([(742, 562), (776, 562)])
    notes = (
        "An arrow is an import that is allowed; import-linter holds it. Dashed: datamodules.types only.",
        "Inside services a room imports from rows below its own, and from the right; serving not from stages.",
    )
    parts += [text(24, 778 + 20 * line, note, 12.5, FAINT) for line, note in enumerate(notes)]
    return picture(964, 830, "The house", parts)


def pipeline() -> str:
    """What happens to a clip, and how a model comes to be served."""
    step, top = 150, 84
    names = (
        ("decode", ("PyAV, exact rate,", "8 frames at a time")),
        ("find, follow", ("YuNet, mesh,", "68 points, cuts")),
        ("align", ("FFHQ crop,", "steadied, 256 px")),
        ("invert", ("FrEN → 16 codes,", "3 W+ steps per frame")),
        ("edit", ("tried and balanced,", "codes + direction")),
        ("paste back", ("its change added, or", "itself where it moved")),
        ("encode", ("H.264, audio", "packets copied")),
    )
    boxes = [Box(24 + i * (step + 18), top, step, 84, name, lines, BLUE) for i, (name, lines) in enumerate(names)]
    width = 24 + len(names) * (step + 18) + 6
    parts = [text(24, top - 18, "A clip, streamed: memory does not grow with its length", 13.5, FAINT)]
    for before, after in pairwise(boxes):
        parts += arrow([(before.x + step, top + 42), (after.x, top + 42)])
    asked = (
        ("adapt", ("the generator learns", "the face of the clip")),
        ("keep lips", ("codes moved until lips", "do what they did")),
        ("stitch", ("tuned to meet the", "frame at the border")),
    )
    second, third = top + 120, top + 236
    columns = [box.x for box in boxes[3:6]]
    optional = [
        Box(x, second, step, 80, name, lines, BLUE, dashed=True)
        for x, (name, lines) in zip(columns, asked, strict=True)
    ]
    words = ("draws the face before and after, at its size,", "with what it learned in adapt and stitch")
    generator = Box(columns[0], third, columns[-1] + step - columns[0], 80, "generator", words, ROSE)
    for number, x in enumerate(columns):
        lane = [[(x + 75, top + 84), (x + 75, second)], [(x + 75, second + 80), (x + 75, third)]]
        # Codes go down to the generator, its pictures come up to be pasted.
        for points in lane:
            parts += arrow(points[::-1] if number == 2 else points)
    notes = (
        "Dashed: where it is asked for, by",
        "--adapt, --keep-lips and --stitch;",
        "otherwise it is passed by.",
    )
    parts += [text(24, second + 26 + 18 * line, note, 12.5, FAINT) for line, note in enumerate(notes)]
    answers, low = third + 112, third + 166
    life = (
        ("data", ("videos under DVC,", "split by person"), GREEN),
        ("train", ("samples, then real", "frames; resumable"), GREEN),
        ("evaluate", ("held-out persons,", "data hash"), GREEN),
        ("register", ("MLflow: challenger,", "with its evaluation"), AMBER),
        ("gate", ("floors; no worse", "than the champion"), AMBER),
        ("champion", ("previous is kept,", "rollback"), AMBER),
        ("serve", ("alias followed,", "loaded, swapped"), ROSE),
    )
    row = [
        Box(24 + i * (step + 18), low, step, 84, name, lines, fill) for i, (name, lines, fill) in enumerate(life)
    ]
    parts.append(
        text(24, low - 18, "A model's life: dvc repro, then register and promote, then served", 13.5, FAINT)
    )
    for before, after in pairwise(row):
        parts += arrow([(before.x + step, low + 42), (after.x, low + 42)])
    back = low + 112
    parts += arrow(
        [(row[4].x + 75, low + 84), (row[4].x + 75, back), (row[1].x + 75, back), (row[1].x + 75, low + 84)],
        dashed=True,
    )
    parts.append(
        text(row[2].x + 160, back + 18, "refused: exit code 3, kept in the history", 12, FAINT, anchor="middle")
    )
    right, left = row[6].x + 75, boxes[3].x - 9
    parts += arrow([
        (right, low), (right, answers), (left, answers), (left, second - 18), (left + 34, second - 18),
        (left + 34, top + 84),
    ])  # fmt: skip
    parts.append(
        text(row[5].x + 20, answers - 8, "encoder and directions that answer", 12, FAINT, anchor="middle")
    )
    return picture(
        width,
        back + 40,
        "The pipeline",
        [line for box in (*boxes, *optional, generator, *row) for line in box.svg()] + parts,
    )


if __name__ == "__main__":
    for name, draw in (("house", house), ("pipeline", pipeline)):
        (HERE / f"{name}.svg").write_text(draw())
