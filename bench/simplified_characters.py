"""Writes src/shortlist/simplified.txt: traditional Chinese characters and the simplified ones they are folded to in search.

    python bench/simplified_characters.py Unihan_Variants.txt    # of the Unicode Character Database (Debian: unicode-data)

A character is folded to the first kSimplifiedVariant that is another one, and that again while it has one. Some are simplified
characters as well (U+4E7E): in search, found too often is better than not found.
"""

from __future__ import annotations

import bz2
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src" / "shortlist" / "simplified.txt"


def simplified(source: Path) -> dict[str, str]:
    text = bz2.decompress(source.read_bytes()).decode() if source.suffix == ".bz2" else source.read_text("utf-8")
    direct: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[1] == "kSimplifiedVariant":
            char, *variants = (chr(int(code[2:], 16)) for code in [fields[0], *fields[2].split()])
            others = [other for other in variants if other != char]
            direct.update({char: others[0]} if others else {})
    return {char: end for char in direct if max(char, end := last(char, direct)) <= "\uffff"}


def last(char: str, direct: dict[str, str]) -> str:
    seen = {char}
    while (following := direct.get(char, char)) not in seen:
        seen.add(following)
        char = following
    return char


def main() -> None:
    table = simplified(Path(sys.argv[1]))
    header = (
        "# Traditional Chinese characters, and below each line of them what they are folded to in search.\n"
        "# From kSimplifiedVariant of the Unihan database 15.0, Copyright Unicode, Inc., Unicode License v3\n"
        "# (https://www.unicode.org/license.txt), by bench/simplified_characters.py.\n"
    )
    TARGET.write_text(f"{header}{''.join(table)}\n{''.join(table.values())}\n", "utf-8")


if __name__ == "__main__":
    main()
