"""Writes ``offload.svg``: a step whose every fourth layer lies in host memory, with one buffer and with two."""

from __future__ import annotations

from pathlib import Path

LAYERS, AWAY, SCALE = 8, (3, 7), 46
COMPUTE, LOAD = "#2f6f9f", "#c97b2c"


def lane(y: int, text: str) -> str:
    """Return a lane's name."""
    return f'<text x="8" y="{y + 16}">{text}</text>'


def box(start: float, length: float, y: int, colour: str, text: str) -> str:
    """Return one box of a lane."""
    x = 150 + start * SCALE
    return (
        f'<rect x="{x:.0f}" y="{y}" width="{length * SCALE - 2:.0f}" height="24" fill="{colour}"/>'
        f'<text x="{x + length * SCALE / 2:.0f}" y="{y + 16}" fill="#fff" text-anchor="middle">{text}</text>'
    )


def computing(y: int) -> list[str]:
    """Return the lane of layers; those that lie elsewhere have a star."""
    return [box(i, 1, y, COMPUTE, f"{i}*" if i in AWAY else str(i)) for i in range(LAYERS)] + [
        box(LAYERS, 1, y, COMPUTE, "head")
    ]


def main() -> None:
    """Write the picture."""
    parts = [lane(10, "accelerator"), *computing(10), lane(44, "host, 1 buffer")]
    parts += [
        box(0, 1.6, 44, LOAD, "... of 3"),
        box(4, 2.6, 44, LOAD, "weights of 7"),
        box(8, 1, 44, LOAD, "3 ..."),
    ]
    parts += [lane(78, "host, 2 buffers"), box(0, 0.6, 78, LOAD, "...")]
    parts += [box(0.6, 2.6, 78, LOAD, "weights of 7"), box(7, 2, 78, LOAD, "3, next step")]
    parts.append('<text x="150" y="124">each load ends before its layer begins: nothing is waited for</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="580" height="136" font-family="sans-serif" font-size="12">'
    text = "\n".join([head, '<rect width="580" height="136" fill="#fff"/>', *parts, "</svg>"])
    Path(__file__).with_suffix(".svg").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
