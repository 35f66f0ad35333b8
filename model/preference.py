"""Preference vectors: five numbers for what a rater looks for in a photo.

The paper's `PENet` was never released; only its outputs are, five numbers in [0, 1] per photo and rater. This open
replacement reads a rater's survey and the photo's vector, is trained jointly with the frame that reads its vectors, and
supervised by given vectors where a data set has them. Surveys are free-form, so an answer is coded by hashing: no list of
questions has to be kept, any answer may be missing, and a question that nobody else was asked does no harm. What it is
worth: bench/experts.py, docs/experts.md.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

WIDTH = 5
SURVEY_WIDTH = 32
NEUTRAL = 0.5  # of a preference vector of the paper (0 to 1): neither for nor against


def survey_code(answers: dict[str, str | None]) -> Tensor:
    """(32,) code of a survey: a number weighs its question's place, a word has a place of its own.

    Empty answers leave no trace; an empty survey is the zero vector ("nothing is known").
    """
    return answer_codes(answers).sum(0)


def answer_codes(answers: dict[str, str | None]) -> Tensor:
    """(Q, 32) codes of the Q answers that were given; their sum is the survey's."""
    codes = []
    for question, answer in sorted(answers.items()):
        text = (answer or "").strip()
        if not text:
            continue
        try:
            weight, key = math.tanh(float(text) / 10.0), question
        except ValueError:
            weight, key = 1.0, f"{question}={text}"
        digest = hashlib.sha256(key.encode()).digest()
        code = torch.zeros(SURVEY_WIDTH)
        code[digest[0] % SURVEY_WIDTH] = weight if digest[1] % 2 else -weight
        codes.append(code)
    return torch.stack(codes) if codes else torch.zeros(0, SURVEY_WIDTH)


class PreferenceNet(nn.Module):
    """(B, 32) survey codes and (B, D) photo vectors → (B, 5) preference vectors in (0, 1)."""

    def __init__(self, image_width: int, hidden: int = 16):
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, hidden))
        self.survey = nn.Linear(SURVEY_WIDTH, hidden, bias=False)
        self.out = nn.Linear(hidden, WIDTH)
        # Neutral to begin with, for everybody: what a handful of surveys says by chance costs more than it brings.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, survey: Tensor, image: Tensor) -> Tensor:
        return torch.sigmoid(self.out(torch.relu(self.image(image) + self.survey(survey))))
