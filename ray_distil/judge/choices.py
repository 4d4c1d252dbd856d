r"""Multiple choice: the order of the options, and the letter that a text states.

    \boxed{C}   \boxed{\text{(C)}}   \boxed{C. 12 m/s}      C
    **Answer:** D      The correct option is (D).            D
    \boxed{A, C}   Answer: Because ...   no letter at all    None: a letter is never guessed

The order depends only on the row's id and its options. It is the same in each run, and the right option has no fixed
place.
"""

import re
import unicodedata
from string import ascii_uppercase

from ray_distil.judge.answers import boxes, extract_answer, readable, statements
from ray_distil.store.schemas import stable_id

_NAMES_OTHERS = re.compile(
    r"(?<!\w)\(?[A-J]\)?\s*(?:and|or|nor|&|,)\s*\(?[A-J]\)?(?!\w)|\b(?:both|neither|either|only)\s\(?[A-J]\)?(?!\w)",
    re.IGNORECASE,
)
_LAST = re.compile(
    r"(?:all|none|both|neither|any) of (?:the |these )?(?:above|these|them|options|choices)\.?", re.IGNORECASE
)
LETTER_ALONE = 12  # characters of a text that is nothing but a letter and marks around it
MOST = len(ascii_uppercase)
# Signs that may stand around a letter: \text{...}, \mathbf{...}, brackets, stars, dollars.
_AROUND = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|mbox|boxed|rm|bf)\s*\{|[{}$*_`\"'“”]|\\[()\[\],;! ]"
)
_WORDS = re.compile(
    r"^(?:(?:the|my|correct|right|final|answer|option|choice|is|选项?|为|是)\b[\s:：]*)+", re.IGNORECASE
)
_LETTER = re.compile(r"[(\[（]?\s*([A-Z])\s*(?:$|[)\]）](?!\w)|[.:：、](?!\w)|[-–—]\s|\s*[(（])")
# A second letter behind the first: A, C; A and C; (A) (C); A/C.
_ANOTHER = re.compile(r"^\s*(?:[,;/&+、]|and\b|or\b|和|或)?\s*[(\[（]?\s*([A-Z])\s*(?:$|[)\]）.,;:：、])")


def ordered(row_id: str, options: list[str]) -> list[str]:
    """The options in the order in which they are shown, without duplicates.

    Where an option names others by their letters ("Both A and B") the order is that of the source. "None of the above"
    stays last.
    """
    unique = list(dict.fromkeys(options))
    if any(_NAMES_OTHERS.search(option) for option in unique):
        return unique
    return sorted(unique, key=lambda option: (bool(_LAST.fullmatch(option.strip())), stable_id(row_id, option)))


def listed(options: list[str]) -> str:
    """The options as a prompt shows them, one a line: `A. 12 m/s`."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))


def stated_letter(text: str, num_choices: int) -> str | None:
    """The letter, among the first `num_choices`, that a text states; None where it states no letter, or several.

    It is in the last box that begins with a letter, unless an explicit "Answer: X" follows the box; else in the last
    "Answer: X" that begins with a letter.
    """
    text, letters = unicodedata.normalize("NFKC", text), ascii_uppercase[:num_choices]
    answer = extract_answer(text)
    candidates = [answer] if answer is not None else []
    candidates += reversed(boxes(text))
    candidates += reversed(statements(text))
    if len(text.strip()) <= LETTER_ALONE:
        candidates.append(readable(text).strip())
    for candidate in candidates:
        stated = letters_in(candidate, letters)
        if stated:
            return stated[0] if len(stated) == 1 else None
    return None


def letters_in(stated: str, letters: str) -> list[str]:
    """The letters with which an answer begins: ["C"], several for "A, C", none where it begins with something else."""
    bare = _WORDS.sub("", _AROUND.sub(" ", stated).strip()).strip()
    if re.fullmatch(r"\W*[a-z]\W*", bare):  # a small letter alone is a choice, and not the article "a"
        bare = bare.upper()
    first = _LETTER.match(bare)
    if first is None:
        first = re.match(r"([A-Z])(?=\s*(?:[,;/&+、]|and\b|or\b|和|或)\s*[(\[]?[A-Z](?:$|[^\w]))", bare)
    if first is None:  # all of the above (D)
        first = re.search(r"\(([A-Z])\)(?=\W*$)", bare)
    if first is None or first[1] not in letters:
        return []
    rest, letters_stated = bare[first.end(1) :].lstrip(" )]）."), [first[1]]
    while (next_letter := _ANOTHER.match(rest)) and next_letter[1] in letters:
        letters_stated.append(next_letter[1])
        rest = rest[next_letter.end(1) :].lstrip(" )]）")
    return list(dict.fromkeys(letters_stated))
