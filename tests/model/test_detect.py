"""Boxes of people: choosing one, boxes from points, and the detectors on a street, a grey wall and mannequins."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from model.detect import (
    AutoDetector,
    Box,
    HogDetector,
    PresenceDetector,
    box_from_points,
    look,
    make_detector,
    overlap,
    pick_largest,
)
from model.images import apply_affine, crop_person, decode, invert_affine
from tasks.mannequins.photos import photos

BUS = [(48, 399, 245, 903), (669, 382, 810, 880), (221, 406, 345, 860), (0, 550, 63, 873)]
"""People in the street photo, boxes read off by eye; the last one is cut off by the photo's edge."""
GREY = np.full((240, 180, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def street(shared) -> np.ndarray:
    return np.asarray(decode((shared / "data" / "street" / "bus.jpg").read_bytes()))


def test_the_largest_box_that_is_sure_enough():
    small, large = Box(0, 0, 10, 10, 0.9), Box(5, 5, 25, 45, 0.4)
    twin = Box(100, 0, 140, 20, 2.0)
    assert pick_largest([]) is None
    assert pick_largest([small, large]) is large
    assert pick_largest([small, large], threshold=0.5) is small
    assert pick_largest([small, large], threshold=0.4) is large
    assert pick_largest([small, large], threshold=1.0) is None
    assert pick_largest([large, twin]) is large and pick_largest([twin, large]) is twin  # the first wins ties
    assert pick_largest([Box(10, 10, 10, 50, 1.0), Box(30, 30, 20, 90, 1.0)]) is None  # no area, inside out


def test_area_and_numbers_of_a_box():
    assert Box(1, 2, 4, 7, 0.0).area == 15 and Box(4, 2, 1, 7, 0.0).area == 0 and Box(4, 7, 1, 2, 0.0).area == 0
    assert Box(1.0, 2.0, 4.5, 7.0, 0.0).xyxy().tolist() == [1, 2, 4.5, 7]


@pytest.mark.parametrize(
    ("other", "share"),
    [
        ((0, 0, 10, 20), 1.0),
        ((5, 0, 15, 20), 100 / 300),
        ((0, 0, 5, 10), 50 / 200),
        ((-10, -10, 20, 30), 200 / 1200),
        ((10, 0, 20, 20), 0.0),  # side by side
        ((40, 40, 50, 50), 0.0),
        ((3, 3, 3, 9), 0.0),
    ],
)
def test_overlap_is_intersection_over_union(other, share):
    a, b = Box(0, 0, 10, 20, 1.0), Box(*other, 1.0)
    assert overlap(a, b) == pytest.approx(share)
    assert overlap(b, a) == overlap(a, b)


def test_a_box_from_points_is_that_of_the_person(mannequins):
    shares = []
    for shot in mannequins:
        shares.append(overlap(Box(*box_from_points(shot.truth["points"]), 1.0), Box(*shot.truth["box"], 1.0)))
    assert min(shares) > 0.65 and np.mean(shares) > 0.8


def test_a_box_from_points_moves_and_grows_with_them(mannequins):
    points = mannequins[0].truth["points"].astype(float)
    box = box_from_points(points)
    np.testing.assert_allclose(box_from_points(points * 3 + [7, -20]), box * 3 + [7, -20, 7, -20])
    low, high = points.min(0), points.max(0)
    assert (box[:2] < low).all() and (box[2:] > high).all()


@pytest.mark.parametrize("name", ["hog", "presence", "auto"])
def test_detectors_by_name(net, name):
    detector = make_detector(name, net)
    assert {"hog": HogDetector, "presence": PresenceDetector, "auto": AutoDetector}[name] is type(detector)
    assert "\n" not in detector.settings and detector.settings


def test_a_detector_that_does_not_exist(net):
    said = r"^mesh\.detector is 'yolo'; it can be auto, hog, presence, onnx or torchvision:MODEL$"
    with pytest.raises(ValueError, match=said):
        make_detector("yolo", net)


def test_hog_finds_people_in_the_street(street):
    found = HogDetector(threshold=0.5)(street)
    people = [Box(*map(float, box), 1.0) for box in BUS]
    hits = [max(overlap(box, person) for box in found) for person in people[:3]]
    assert max(hits) > 0.6
    largest = pick_largest(found)
    assert max(overlap(largest, person) for person in people) > 0.5
    for box in found:
        assert 0 <= box.x1 < box.x2 <= street.shape[1] and 0 <= box.y1 < box.y2 <= street.shape[0]
        assert box.score >= 0.5
    assert max(overlap(box, person) for box in HogDetector()(street) for person in people) > 0.6


def test_hog_does_not_mind_the_resolution(street):
    person = max(HogDetector()(street), key=lambda box: box.score)
    half = HogDetector()(street[::2, ::2])
    assert max(overlap(Box(*(box.xyxy() * 2), 1.0), person) for box in half) > 0.6


@pytest.mark.parametrize("level", [0, 128, 255])
def test_hog_finds_nobody_on_a_plain_picture(level):
    assert HogDetector()(np.full_like(GREY, level)) == []


def test_hogs_threshold_is_kept_and_told(street):
    every, some = HogDetector(threshold=0.0), HogDetector(threshold=1.0)
    scores = [box.score for box in every(street)]
    assert sorted(box.score for box in some(street)) == sorted(score for score in scores if score >= 1.0)
    assert len(scores) > sum(score >= 1.0 for score in scores) > 0
    assert (
        len({HogDetector(**one).settings for one in ({}, {"threshold": 0.4}, {"side": 480}, {"stride": 4}, {"scale": 1.1})})
        == 5
    )


def test_hog_travels_between_processes(street):
    detector = HogDetector()
    found = detector(street)  # OpenCV's object is there now
    again = pickle.loads(pickle.dumps(detector))
    assert again(street) == found != []


@pytest.mark.parametrize(("width", "height"), [(192, 256), (640, 360), (100, 400), (33, 40)])
def test_windows_lie_in_the_photo_and_cover_its_middle(net, width, height):
    boxes = PresenceDetector(net).windows(width, height)
    assert len({tuple(box) for box in boxes}) == len(boxes)
    for box in boxes:
        assert (box >= 0).all() and (box <= [width, height, width, height]).all() and (box[2:] > box[:2]).all()
    heights = [box[3] - box[1] for box in boxes]
    np.testing.assert_allclose(heights, sorted(heights, reverse=True))
    assert heights[0] == pytest.approx(0.9 * height) and heights[-1] == pytest.approx(0.5 * height)
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        covered[y1:y2, x1:x2] = True
    if width < 1.1 * height:
        assert covered[height // 4 : -height // 4, width // 4 : -width // 4].all()


def test_presence_keeps_to_its_threshold(net, mannequins):
    image = np.asarray(decode(mannequins[0].data))
    (box,) = PresenceDetector(net, threshold=float("-inf"))(image)
    assert PresenceDetector(net, threshold=box.score)(image) == [box]
    assert PresenceDetector(net, threshold=box.score + 0.01)(image) == []
    assert box.xyxy().tolist() == np.round(box.xyxy()).tolist()
    assert 0 <= box.x1 < box.x2 <= 192 and 0 <= box.y1 < box.y2 <= 256
    settings = {PresenceDetector(net, **one).settings for one in ({}, {"threshold": 1.0}, {"heights": (0.9, 0.5)})}
    assert len(settings) == 3


@pytest.mark.parametrize("name", ["presence", "auto"])
def test_mannequins_are_found_and_empty_places_are_not(net, mannequins, body_file, renderer, name):
    detector = make_detector(name, net)
    shares = []
    for shot in mannequins:
        box = pick_largest(detector(np.asarray(decode(shot.data))))
        shares.append(0.0 if box is None else overlap(box, Box(*map(float, shot.truth["box"]), 1.0)))
    assert sum(share > 0.5 for share in shares) >= 11 and np.median(shares) > 0.75
    empty = photos(body_file, 5, 0, 6, renderer=renderer, nobody=1.0, unreadable=0.0)
    assert sum(bool(detector(np.asarray(decode(shot.data)))) for shot in empty) <= 1
    assert detector(GREY) == []


def test_a_look_is_the_networks_answer_in_photo_pixels(net, mannequins):
    image = np.asarray(decode(mannequins[1].data))
    boxes = [mannequins[1].truth["box"], np.array([0.0, 0.0, 150.0, 256.0])]
    presence, points = look(net, image, boxes)
    assert presence.shape == (2,) and points.shape == (2, 15, 2)
    for k, box in enumerate(boxes):
        crop, matrix = crop_person(image, box)
        output = net(torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255)
        assert presence[k] == pytest.approx(float(output.presence[0]), abs=1e-3)
        np.testing.assert_allclose(points[k], apply_affine(invert_affine(matrix), output.points[0].numpy()), atol=0.05)


def test_auto_asks_the_whole_photo_then_hog_then_windows(net, street):
    hog = HogDetector()
    always, never = PresenceDetector(net, threshold=float("-inf")), PresenceDetector(net, threshold=float("inf"))
    assert AutoDetector(hog, always)(street) == always.whole(street)
    assert AutoDetector(hog, never)(street) == hog(street) != []
    assert AutoDetector(hog, never)(GREY) == []
    assert hog.settings in AutoDetector(hog, never).settings and never.settings in AutoDetector(hog, never).settings


def test_windows_find_who_stands_in_a_corner(net, mannequins):
    """Half as high as the photo and far from its middle, where neither the look at the whole photo nor HOG helps."""
    auto = AutoDetector(HogDetector(threshold=float("inf")), PresenceDetector(net))
    missed = hits = 0
    for shot in mannequins:
        photo = np.full((420, 640, 3), 128, np.uint8)
        photo[164:, 448:] = np.asarray(decode(shot.data))
        truth = Box(*map(float, shot.truth["box"] + [448, 164, 448, 164]), 1.0)
        missed += auto.presence.whole(photo) == []
        hits += any(overlap(box, truth) > 0.5 for box in auto(photo))
    assert missed >= 4 and hits >= 9
