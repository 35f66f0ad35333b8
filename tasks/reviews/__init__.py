"""The store of reviews: who may review, what there is to review, what was answered. The page is in `review/`."""

from tasks.reviews.answers import Item, Saved, items, may_see, said, save, survey_of
from tasks.reviews.gathered import feedback_events, feedback_rows, revised_labels, surveys_of, unreadable
from tasks.reviews.payloads import Conflict, NotYours, Refused
from tasks.reviews.people import Person, invite, invited, known_people, person_of, revoke
from tasks.reviews.rounds import close_round, drafts_of, offer, open_round, round_progress, rounds
from tasks.reviews.store import open_store

__all__ = [
    "Conflict", "Item", "NotYours", "Person", "Refused", "Saved", "close_round", "drafts_of", "feedback_events",
    "feedback_rows", "invite", "invited", "items", "known_people", "may_see", "offer", "open_round", "open_store",
    "person_of", "revised_labels", "revoke", "round_progress", "rounds", "said", "save", "survey_of", "surveys_of",
    "unreadable",
]  # fmt: skip
