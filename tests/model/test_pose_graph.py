"""The posture stream that sees the photo: heat maps, body graph, what is read under a point, batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.compat import Compat
from model.graph import EDGES, POINTS, adjacency
from model.pose_graph import PoseGraph, Proposals, body_graph, gaussians, heat_maps, sine

SIDE, CHANNELS = 14, 32
FIXED, REFERENCE = Compat.of("fixed"), Compat.of("reference")


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def head() -> PoseGraph:
    """The graph decoder over a narrow backbone, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PoseGraph(CHANNELS, SIDE, layers=3)
        for branch in made.kpt_branch:  # so that points move from layer to layer
            torch.nn.init.normal_(branch[-1].weight, std=0.3)
    return made.eval().requires_grad_(False)


def photos(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of a backbone, 15 points, some beside the photo, and which of them are visible; one has none."""
    given = draw(seed)
    features = torch.randn(count, CHANNELS, SIDE // 2, SIDE // 2, generator=given)
    points = torch.rand(count, 15, 2, generator=given) * 300 - 40
    visible = torch.rand(count, 15, generator=given) < 0.7
    visible[2:3] = False
    return features, points, visible


# Heat maps


def plain_map(x: float, y: float) -> tuple[Tensor, float]:
    """A heat map and its weight, cell by cell as the specification (section 6) has it."""
    peak = [int(int(at) / 3.5 + 0.5) for at in (x, y)]
    cells = torch.zeros(64, 64)
    if any(at - 6 >= 64 or at + 7 < 0 for at in peak):
        return cells, 0.0
    for row in range(peak[1] - 6, peak[1] + 7):
        for column in range(peak[0] - 6, peak[0] + 7):
            if 0 <= row < 64 and 0 <= column < 64:
                cells[row, column] = math.exp(-((row - peak[1]) ** 2 + (column - peak[0]) ** 2) / 8)
    return cells, 1.0


def rows_of_fifteen(pairs: list[tuple[float, float]]) -> Tensor:
    pairs = pairs + [(0.0, 0.0)] * (-len(pairs) % 15)
    return torch.tensor(pairs).view(-1, 15, 2)


def test_heat_maps_are_those_of_the_specification():
    within = [(112, 60), (0, 0), (221, 221), (3, 220), (1, 2), (2, 1), (100.9, 57.99)]
    over = [(223, 223), (-20, 100), (100, -8), (226, 240), (-10, -10), (241, 12)]  # the peak is not, some cells are
    beside = [(-40.0, 100), (100, 400), (1e6, -1e6)]
    given = rows_of_fifteen(within + over + beside)
    maps, (_, weight) = heat_maps(given), gaussians(given)
    for point, found, seen in zip(given.flatten(0, 1).tolist(), maps.flatten(0, 1), weight.flatten(), strict=True):
        wanted, known = plain_map(*point)
        assert float(seen) == known, point
        torch.testing.assert_close(found, wanted, atol=1e-7, rtol=0, msg=str(point))
    peaks = maps.flatten(0, 1).amax((1, 2))
    assert (peaks[: len(within)] == 1).all()
    assert ((peaks > 0) & (peaks < 1))[len(within) :][: len(over)].all()
    assert (peaks[len(within + over) :][: len(beside)] == 0).all()


def test_every_coordinate_is_rounded_and_cut_as_specified():
    """Along either axis alone: all whole pixels from far left to far right, and fractions, which are cut off."""
    places = [*range(-60, 320), -0.99, -24.5, 13.75, 246.999]
    for axis in (0, 1):
        pairs = [(at, 100.0) if axis == 0 else (100.0, at) for at in map(float, places)]
        given = rows_of_fifteen(pairs)
        profiles, weight = (found.flatten(0, 1)[: len(pairs)] for found in gaussians(given))
        for at, point, seen, profile in zip(places, pairs, weight.tolist(), profiles[:, axis], strict=True):
            wanted, known = plain_map(*point)
            assert seen == known, (axis, at)
            across = wanted.amax(0) if axis == 0 else wanted.amax(1)
            torch.testing.assert_close(profile, across, atol=1e-7, rtol=0, msg=f"{axis} {at}")


def test_a_map_can_be_empty_and_still_count():
    """Seven cells to the left nothing of a map is on the photo, yet the reference's weight is 1 there."""
    given = rows_of_fifteen([(-26.0, 100.0), (-30.0, 100.0), (246.0, 100.0)])  # peaks at cells -6 (cut from -6.9), -8, 70
    maps, (_, weight) = heat_maps(given), gaussians(given)
    assert [int(m.sum() > 0) for m in maps[0, :3]] == [1, 0, 0] and weight[0, :3].tolist() == [1, 0, 0]
    edge = rows_of_fifteen([(-27.0, 100.0)])  # cell -7: the patch ends at cell -1
    assert heat_maps(edge)[0, 0].sum() == 0 and gaussians(edge)[1][0, 0] == 1


# The body graph


def plain_graph(seen: list[bool], edges: tuple) -> Tensor:
    """Section 5: identity and row-normalised graph, zero for what is hidden."""
    matrix = torch.zeros(15, 15)
    for a, b in edges:
        if seen[a] and seen[b]:
            matrix[a, b] = matrix[b, a] = 1.0
    for row in matrix:
        if row.sum() > 0:
            row /= row.sum().clone()
    return torch.stack([torch.diag(torch.tensor(seen).float()), matrix])


def test_the_graph_joins_what_is_seen():
    weight = (torch.rand(6, 15, generator=draw(1)) < 0.6).float()
    weight[0] = 1.0
    weight[1] = torch.nn.functional.one_hot(torch.tensor(4), 15).float()  # alone: a row of zeros, not of NaN
    edges, hidden = body_graph(weight, adjacency())
    assert torch.equal(hidden, weight == 0)
    for found, row in zip(edges, weight):
        torch.testing.assert_close(found, plain_graph((row > 0).tolist(), EDGES), atol=1e-7, rtol=0)
    sums = edges[:, 1].sum(-1)
    assert ((sums - 1).abs().lt(1e-6) | (sums == 0)).all()
    assert torch.equal(body_graph(weight, adjacency().expand(6, -1, -1))[0], edges)


def test_where_all_are_hidden_the_first_is_looked_at():
    weight = torch.zeros(2, 15)
    weight[1, 5] = 1.0
    edges, hidden = body_graph(weight, adjacency())
    assert hidden[0].tolist() == [False] + [True] * 14 and torch.equal(hidden[1], weight[1] == 0)
    torch.testing.assert_close(edges[0], plain_graph([True] + [False] * 14, EDGES))
    assert (weight[0] == 0).all()  # the input is left as it was


def test_the_graph_of_a_single_photo_is_wrong_in_the_reference_only():
    body = adjacency()
    for count in (1, 2):
        assert torch.equal(FIXED.graph_of(body, count), body)
    assert torch.equal(REFERENCE.graph_of(body, 2), body)
    wrong = REFERENCE.graph_of(body, 1)
    assert torch.equal(wrong, Compat(graph="columns").graph_of(body, 2))
    assert sorted(map(tuple, wrong.nonzero().tolist())) == [(0, 0), (1, 2), (2, 1)]


def test_whose_points_are_hidden():
    own = (torch.rand(3, 15, generator=draw(2)) < 0.5).float()
    assert torch.equal(FIXED.weight_of(own), own)
    assert torch.equal(REFERENCE.weight_of(own), own * own[0])


# What is read under a point


def test_support_is_that_of_the_enlarged_map(head):
    features, points, _ = photos(3)
    points[0, :3] = torch.tensor([[500.0, 500.0], [-27.0, 100.0], [0.0, 223.0]])  # beside the photo, empty map, corner
    cells = head.upsample(features).detach()
    maps = heat_maps(points)
    large = F.interpolate(cells, size=64, mode="bilinear", align_corners=False)
    share = maps / (maps.sum((-1, -2), keepdim=True) + 1e-8)
    wanted = torch.einsum("bkyx,bcyx->bkc", share, large)
    found = head.support(cells.flatten(2).mT, gaussians(points)[0])
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    assert (found[0, :2] == 0).all() and found[0, 2:].abs().amin() < found.abs().amax()
    assert found[1:].std() > 0.05


def test_support_reads_the_place_of_its_point(head):
    place = torch.arange(SIDE).float()
    cells = torch.stack([place.expand(SIDE, -1), place[:, None].expand(-1, SIDE)])[None]  # column, row
    points = torch.rand(1, 15, 2, generator=draw(3)) * 120 + 50  # away from the borders
    read = head.support(cells.flatten(2).mT, gaussians(points)[0])
    torch.testing.assert_close(read, points / 16 - 0.5, atol=0.2, rtol=0)


def test_places_are_coded_y_first_sine_and_cosine_in_turn():
    place = torch.rand(4, 2, generator=draw(4)) * 2 * math.pi
    found = sine(place, 8)
    for (x, y), row in zip(place.tolist(), found.tolist()):
        wanted = []
        for at in (y, x):
            for k in range(8):
                angle = at / 10000 ** (2 * (k // 2) / 8)
                wanted.append(math.cos(angle) if k % 2 else math.sin(angle))
        assert row == pytest.approx(wanted, abs=1e-6)


def test_a_proposal_is_the_middle_of_the_best_cell_and_its_neighbours(head):
    proposals: Proposals = head.proposals
    cells = 4 * torch.randn(2, SIDE**2, 256, generator=draw(5))
    tokens = torch.randn(2, 15, 256, generator=draw(6))
    found = proposals(cells, tokens, SIDE)
    chance = proposals.similarity(cells, tokens).softmax(-1).view(30, SIDE, SIDE)
    for guess, one in zip(found.flatten(0, 1), chance):
        row, column = divmod(int(one.argmax()), SIDE)
        total, x, y = 1e-10, 0.0, 0.0
        for r in range(max(row - 1, 0), min(row + 2, SIDE)):
            for c in range(max(column - 1, 0), min(column + 2, SIDE)):
                total, x, y = total + float(one[r, c]), x + float(one[r, c]) * (c + 0.5), y + float(one[r, c]) * (r + 0.5)
        assert guess.tolist() == pytest.approx([x / total / SIDE, y / total / SIDE], abs=1e-5)
    assert found.std() > 0.1


# The whole stream


def test_a_batch_of_any_size_is_its_photos_one_by_one(head):
    features, points, visible = photos(5)
    alone = torch.cat([head(f[None], p[None], v[None], FIXED) for f, p, v in zip(features, points, visible)])
    assert alone.shape == (5, 256) and torch.isfinite(alone).all() and alone.std(0).mean() > 0.05
    for count in (1, 2, 3, 5):
        together = head(features[:count], points[:count], visible[:count], FIXED)
        torch.testing.assert_close(together, alone[:count], atol=1e-5, rtol=0)
    turned = head(features.flip(0), points.flip(0), visible.flip(0), FIXED)
    torch.testing.assert_close(turned.flip(0), alone, atol=1e-5, rtol=0)


def test_the_references_batches_leak_from_their_first_photo(head):
    features, points, visible = photos(2)
    points = points.clamp(0, 223)
    visible[:] = True
    hiding = visible.clone()
    hiding[0, 3:9] = False
    for compat, leaks in ((FIXED, False), (REFERENCE, True)):
        moved = (head(features, points, hiding, compat) - head(features, points, visible, compat)).abs().amax(1)
        assert moved[0] > 1e-3 and bool(moved[1] > 1e-3) == leaks, compat
    # the reference's graph of a single photo is another than that of a batch
    single = head(features[1:], points[1:], visible[1:], REFERENCE)
    assert (single - head(features, points, visible, REFERENCE)[1]).abs().max() > 1e-3


def test_every_input_of_the_stream_counts(head):
    features, points, visible = photos(2)
    before = head(features, points, visible, FIXED)
    for given in ((features * 1.1, points, visible), (features, points + 30, visible), (features, points, ~visible)):
        assert (head(*given, FIXED) - before).abs().amax(1).min() > 1e-4


def test_where_a_hidden_point_lies_takes_no_part(head):
    features, points, visible = photos(3)
    elsewhere = torch.where(visible[..., None], points, 300 - points)
    torch.testing.assert_close(
        head(features, elsewhere, visible, FIXED), head(features, points, visible, FIXED), atol=1e-6, rtol=0
    )


def test_a_point_beside_the_photo_is_hidden(head):
    features, points, visible = photos(1)
    visible[:] = True
    points[0, 4] = torch.tensor([900.0, 50.0])
    hidden = visible.clone()
    hidden[0, 4] = False
    assert torch.equal(head(features, points, visible, FIXED), head(features, points, hidden, FIXED))


def test_points_move_from_layer_to_layer_without_a_gradient(head):
    features, points, visible = photos(2)
    before = head(features, points, visible, FIXED)
    last = head.kpt_branch[1][-1]
    kept = last.bias.clone()
    last.bias.data += 1.0
    assert (head(features, points, visible, FIXED) - before).abs().max() > 1e-4  # they do move
    last.bias.data.copy_(kept)
    features.requires_grad_(True)
    head(features, points, visible, FIXED).sum().backward()
    assert features.grad.abs().sum() > 0
    assert not any(value.requires_grad for value in PoseGraph(CHANNELS, SIDE, layers=2).kpt_branch.parameters())


def test_points_of_another_number_are_refused(head):
    features, _, _ = photos(2)
    assert len(POINTS) == 15
    with pytest.raises(ValueError, match=r"points: shape \(2, 17, 2\), expected \(B, 15, 2\)"):
        head(features, torch.zeros(2, 17, 2), torch.ones(2, 17, dtype=torch.bool), FIXED)
