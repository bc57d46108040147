"""What can be said of the pages without a browser: size, nothing from elsewhere, no HTML from strings, contrast, translations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import web

STATIC = Path(web.__file__).parent / "static"
FILES = sorted(p for p in STATIC.rglob("*") if p.is_file())
BYTES_MAX = 150_000
CREW_BYTES_MAX = 70_000


def test_static_all_files_together_stay_small() -> None:
    assert sum(p.stat().st_size for p in FILES) < BYTES_MAX
    crew = [
        p
        for p in FILES
        if p.name in ("crew.html", "crew.css", "crew.js", "crew-words.js", "crew-worker.js", "dom.js", "map.js", "words.js", "icon.svg")
    ]
    assert sum(p.stat().st_size for p in crew) < CREW_BYTES_MAX


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_static_file_names_no_other_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text), "an address of another site"


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".js"], ids=lambda p: p.name)
def test_static_script_builds_no_html_from_strings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".html"], ids=lambda p: p.name)
def test_static_page_has_no_inline_script_or_style(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son[a-z]+=|\sstyle=", text)
    assert '<html lang="en">' in text
    assert 'name="viewport"' in text


@pytest.mark.parametrize("name", ["app.css", "crew.css"])
def test_static_style_respects_reduced_motion_and_dark_rooms(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    assert "prefers-reduced-motion: reduce" in text
    assert "prefers-color-scheme: dark" in text
    assert ":focus-visible" in text


def palettes(name: str) -> dict[str, dict[str, str]]:
    text = (STATIC / name).read_text(encoding="utf-8")
    found = [dict(re.findall(r"--([a-z0-9-]+):\s*(#[0-9a-fA-F]{3,6})\b", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)]
    assert len(found) == 2
    return {"light": found[0], "dark": {**found[0], **found[1]}}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXT = [
    ("ink", "bg"),
    ("ink", "panel"),
    ("ink", "raise"),
    ("ink-2", "bg"),
    ("ink-2", "panel"),
    ("ink-2", "raise"),
    ("text-urgent", "panel"),
]
TEXT += [("text-urgent", "raise"), ("on-strong", "strong"), ("ink", "button"), ("ink-2", "zone"), ("ink-2", "zone-on")]
TEXT += [(f"on-{p}", p) for p in ("urgent", "high", "medium", "low", "journal")]
GRAPHICS = [
    ("edge", "panel"),
    ("main-pipe", "zone"),
    ("sensor", "zone"),
    ("urgent", "zone"),
    ("high", "zone"),
    ("low", "zone"),
    ("medium-line", "zone"),
]
GRAPHICS += [("focus", "panel"), ("focus", "raise"), ("ink", "band"), ("edge", "raise")]
CREW_TEXT = [
    ("ink", "bg"),
    ("ink", "card"),
    ("ink-2", "bg"),
    ("ink-2", "card"),
    ("on-go", "go"),
    ("bad", "card"),
    ("on-bad", "bad"),
    ("bad", "bg"),
]
CREW_TEXT += [(f"on-{p}", p) for p in ("urgent", "high", "medium", "low", "journal")]
CREW_GRAPHICS = [("hot", "bg"), ("pipe", "bg"), ("edge", "card"), ("focus", "card"), ("ink-2", "card")]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "pairs", "least"),
    [
        pytest.param("app.css", TEXT, 4.5, id="operator-text"),
        pytest.param("app.css", GRAPHICS, 3.0, id="operator-graphics"),
        pytest.param("crew.css", CREW_TEXT, 4.5, id="crew-text"),
        pytest.param("crew.css", CREW_GRAPHICS, 3.0, id="crew-graphics"),
    ],
)
def test_palette_contrast_is_wcag_aa(name: str, pairs: list[tuple[str, str]], least: float, theme: str) -> None:
    palette = palettes(name)[theme]
    poor = {f"{a} on {b}": round(contrast(palette[a], palette[b]), 2) for a, b in pairs if contrast(palette[a], palette[b]) < least}
    assert poor == {}


def test_crew_words_every_language_says_every_word() -> None:
    text = (STATIC / "crew-words.js").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^const (en|de|es) = \{\n(.*?)^\};", text, re.S | re.M))
    assert set(blocks) == {"en", "de", "es"}
    keys = {
        language: set(re.findall(r"(?:^|[{,])\s*([A-Za-z_]+):", re.sub(r'"[^"]*"', '""', block), re.M))
        for language, block in blocks.items()
    }
    same_in_english = {"dismiss"}
    for language in ("de", "es"):
        assert keys["en"] - keys[language] - same_in_english == set()
        assert keys[language] - keys["en"] == set()
