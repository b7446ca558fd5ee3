"""The numbers of CoLa (arXiv 2507.07996v1) that the page compares with: Table 1 and the claims."""

from typing import NamedTuple

DATA = ("ARC-Easy", "ARC-Challenge", "DART-1", "DART-2", "DART-3", "DART-4", "DART-5")
ORIGINAL = "original"
SPACES = (ORIGINAL, "skip", "repeat", "skip+repeat")  # the paper's recurrence-only is repeat
SMALLEST = "LLaMA-3-3B"

# accuracy in %, by model, space and data
TABLE_1: dict[str, tuple[tuple[float, ...], ...]] = {
    SMALLEST: (
        (27.8, 20.8, 7.0, 5.4, 3.0, 2.6, 1.4),
        (75.4, 75.6, 27.8, 18.4, 18.4, 13.0, 8.2),
        (65.4, 54.8, 26.6, 16.8, 11.2, 8.2, 5.0),
        (95.8, 98.2, 63.6, 46.8, 34.8, 26.0, 25.6),
    ),
    "LLaMA-3-3B-Instruct": (
        (39.8, 37.4, 13.0, 7.4, 5.8, 9.8, 14.4),
        (86.8, 86.6, 30.2, 22.2, 19.6, 16.2, 13.2),
        (76.2, 72.6, 40.6, 25.2, 21.0, 18.2, 23.8),
        (95.8, 98.2, 81.0, 64.0, 47.6, 42.4, 44.0),
    ),
    "LLaMA-3-8B": (
        (45.6, 42.6, 13.4, 6.8, 4.2, 2.2, 0.8),
        (89.2, 86.6, 39.8, 29.0, 20.0, 16.4, 12.2),
        (73.2, 69.0, 33.4, 17.8, 8.4, 8.8, 5.6),
        (95.8, 98.2, 79.8, 58.0, 42.8, 31.8, 29.2),
    ),
    "LLaMA-3-8B-Instruct": (
        (76.0, 69.0, 10.0, 6.0, 6.8, 12.0, 12.4),
        (92.8, 93.2, 44.2, 25.2, 25.0, 17.8, 13.4),
        (89.2, 87.2, 30.0, 20.8, 24.2, 24.4, 21.6),
        (95.8, 98.2, 84.2, 66.2, 54.6, 49.4, 47.8),
    ),
    "OLMoE-1B-7B": (
        (24.8, 21.4, 12.6, 3.4, 3.0, 1.8, 1.8),
        (76.8, 77.6, 26.0, 15.2, 15.6, 8.8, 4.2),
        (49.8, 51.4, 30.2, 15.8, 8.0, 5.4, 3.6),
        (95.8, 97.4, 57.6, 41.2, 32.6, 23.0, 16.8),
    ),
    "OLMoE-1B-7B-Instruct": (
        (53.2, 41.6, 14.8, 7.2, 3.0, 1.2, 0.6),
        (89.4, 85.4, 29.8, 20.4, 18.6, 9.0, 5.6),
        (81.4, 71.2, 36.8, 23.6, 11.6, 9.6, 5.0),
        (95.8, 98.0, 63.8, 48.0, 36.8, 28.0, 22.0),
    ),
}


class Claim(NamedTuple):
    """What the paper claims, and where."""

    name: str
    number: str  # as published, with its model and data set
    place: str


HEADLINE = Claim(
    "a path corrects most wrong answers",
    "27.8 to 95.8 % (LLaMA-3-3B, ARC-Easy)",
    "Table 1",
)
CORRECTS = Claim(
    "more than 60 % of wrong answers become right on some path",
    "> 60 % (all models and data sets together)",
    "section 4, Figure 4",
)
SHORTENS = Claim(
    "more than 75 % of right answers survive on fewer layers",
    "> 75 % (all models and data sets together)",
    "section 4, Figure 4",
)
STAYS = Claim(
    "the model as it is almost never is the best path",
    "almost nil (all models and data sets)",
    "Figure 4",
)
JOINT = Claim(
    "skips and repeats together do better than either alone",
    "95.8 against 75.4 and 65.4 % (LLaMA-3-3B, ARC-Easy)",
    "Table 1, Figure 3",
)
OVERTHINKS = Claim(
    "paths that correct an answer are shorter than the model, and than those that keep one",
    "no number; an axis of 24 to 28 of 28 layers (LLaMA-3-3B)",
    "Figure 2",
)
MIDDLE = Claim(
    "middle layers are skipped most, the first never",
    "0 to 0.3 of paths skip a layer (3B and 8B)",
    "Figures 5 and 6",
)
EVEN = Claim(
    "harder data use layers more evenly",
    "no number by level; entropy 3.33 (3B) and 3.46 (8B)",
    "Figure 5",
)
SHORTEST = Claim(
    "the shortest twentieth of right paths is up to 30 % shorter",
    "20 to 22 of 28 layers (3B), 22.5 to 25 of 32 (8B)",
    "Figure 7, appendix A",
)
FASTER = Claim("shorter paths are faster, memory is equal", "no number", "discussion")
CEILING = Claim(
    "ARC-Easy at 95.8 % for all six models",
    "95.8 % (six models), ARC-Challenge 98.2 % (all Llamas)",
    "Table 1",
)


def accuracy(data: str, space: str, model: str = SMALLEST) -> float | None:
    """Return an accuracy of Table 1 in %, None where the paper has none."""
    if data not in DATA or space not in SPACES:
        return None
    return TABLE_1[model][SPACES.index(space)][DATA.index(data)]
