"""What bench/physique_frame.py times: every case there is, over a network and people of bench/made_up.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import straightforward
from bench.made_up import People, network, people, rest_mesh
from bench.timing import Case
from model.neighbours import furthest_points, nearest_points
from model.physique_frame import Scores
from model.point_mlp import Tables
from model.pose_graph import PhotoPosture

GFLOP = {"CLIP": 162.0, "Swin + pose graph": 34.3, "mesh": 18.7, "whole": 215.0, "tabled": 53.0}
"""Per photo, forward, of the specification (docs/benchmarks.md); what ours leaves out is not subtracted."""


class Load:
    """The network on its device, people, and every case there is."""

    def __init__(self, device: torch.device, most: int, cut: bool = False, seed: int = 0):
        random = torch.Generator().manual_seed(seed)
        self.device = device
        self.frame = network(random, cut).to(device).eval()
        rest = rest_mesh(10475, random)
        everybody = people(most, rest, random)
        self.people = People(*(value.to(device) for value in vars(everybody).values()))
        kept = self.frame.mesh.kept.cpu()
        self.shared = [(a.to(device), b.to(device)) for a, b in self.frame.mesh.tables(rest[None, kept], "direct")]
        self.compiled: torch.nn.Module | None = None

    def cast(self, precision: str) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def quietly(self, run: Callable[[], object], precision: str = "float32") -> Callable[[], object]:
        """`run` as an evaluation."""

        def done() -> object:
            self.frame.eval()
            with torch.inference_mode(), self.cast(precision):
                return run()

        return done

    def mesh(self, vertices: Tensor, search: str) -> Tensor:
        """The mesh stream with centres and neighbours of each mesh, or those of the mean mesh (`shared`)."""
        mesh = self.frame.mesh
        if search == "shared":
            return mesh(vertices, self.shared)
        mesh.search = search  # type: ignore[assignment]
        return mesh(vertices)

    def whole(self, some: People, tables: Tables | None = None, tabled: bool = False) -> Scores:
        self.frame.mesh.search = "expanded"  # as released weights were trained
        network = self.frame if self.compiled is None else self.compiled
        vector = some.vector if tabled else None
        return network(some.photo, some.vertices, some.points, some.preference, vector=vector, tables=tables)

    def plain(self, some: People) -> Scores:
        return straightforward.forward(self.frame, some.photo, some.vertices, some.points, some.preference)

    def forward_cases(self, count: int, precision: str, all_of_them: bool) -> list[Case]:
        """Each stream and the whole, for `count` photos at once."""
        some, frame, posture = self.people.take(count), self.frame, self.frame.posture
        visible = torch.ones(count, 15, dtype=torch.bool, device=self.device)
        assert isinstance(posture, PhotoPosture) and frame.clip is not None
        runs: list[tuple[str, str, Callable[[], object]]] = [
            ("CLIP", "CLIP", lambda: frame.clip(some.photo)),  # type: ignore[misc]
            ("Swin + pose graph", "Swin + pose graph", lambda: posture(some.photo, some.points, visible, frame.compat)),
            *((f"mesh, {how}", "mesh", partial(self.mesh, some.vertices, how)) for how in ("expanded", "direct", "shared")),
            ("whole", "whole", lambda: self.whole(some)),
            ("whole, tabled vectors and shared mesh tables", "tabled", lambda: self.whole(some, self.shared, tabled=True)),
        ]
        if all_of_them:
            runs.append(("whole, shared mesh tables", "whole", lambda: self.whole(some, self.shared)))
        if count == 1 and precision == "float32":
            runs.append(("whole, straightforward", "whole", lambda: self.plain(some)))
        cases = [Case(name, self.quietly(run, precision), count, precision, GFLOP[work]) for name, work, run in runs]
        if precision == "bfloat16":
            # Autocast casts the frozen tower's 304 M weights in every pass; a tower kept in bfloat16 shows what that costs.
            half = copy.deepcopy(frame.clip).bfloat16()
            run = self.quietly(lambda: half(some.photo.bfloat16()))
            cases.insert(1, Case("CLIP, weights kept in bfloat16", run, count, precision, GFLOP["CLIP"]))
        return cases

    def compiled_cases(self, count: int, precision: str) -> list[Case]:
        """The whole through `torch.compile`; compiled here, not while the clock runs."""
        some, network = self.people.take(count), torch.compile(self.frame, dynamic=False)

        def run(tabled: bool) -> object:
            self.compiled = network  # type: ignore[assignment]
            try:
                return self.whole(some, self.shared, tabled)
            finally:
                self.compiled = None

        cases = []
        for name, work, tabled in (("whole", "whole", False), ("whole, tabled vectors", "tabled", True)):
            timed = self.quietly(partial(run, tabled), precision)
            timed()
            cases.append(Case(f"{name}, shared mesh tables, compiled", timed, count, precision, GFLOP[work]))
        return cases

    def mesh_cases(self, count: int) -> list[Case]:
        """The mesh stream in parts: sampling, neighbours, network; plain and ours."""
        mesh = self.frame.mesh
        everything = self.people.take(count).vertices
        vertices = everything[:, mesh.kept]
        centres = straightforward.sampled(mesh, vertices)
        tables = straightforward.grouped(mesh, vertices, centres)
        ours = mesh.tables(vertices, "expanded")

        def neighbours(how: str) -> None:
            points = vertices
            for index, _ in ours:
                chosen = points.gather(1, index[..., None].expand(-1, -1, 3))
                nearest_points(chosen, points, mesh.neighbours, how)  # type: ignore[arg-type]
                points = chosen

        def literal() -> Tensor:
            mesh.set_literal(True)
            try:
                return mesh(everything, ours)
            finally:
                mesh.set_literal(False)

        runs: dict[str, Callable[[], object]] = {
            "plain sampling": lambda: straightforward.sampled(mesh, vertices),
            "plain neighbours": lambda: straightforward.grouped(mesh, vertices, centres),
            "plain network": lambda: straightforward.network(mesh, vertices, tables),
            "plain": lambda: straightforward.mesh_stream(mesh, everything),
            "sampling": lambda: furthest_points(vertices, mesh.sizes[0]),
            "expanded neighbours": partial(neighbours, "expanded"),
            "direct neighbours": partial(neighbours, "direct"),
            "literal network": literal,
            "network": lambda: mesh(everything, ours),
            "expanded": partial(self.mesh, everything, "expanded"),
            "direct": partial(self.mesh, everything, "direct"),
            "shared": partial(self.mesh, everything, "shared"),
        }
        return [Case(name, self.quietly(run), count) for name, run in runs.items()]

    def training_cases(self, count: int, precisions: list[str]) -> list[Case]:
        """One step each: forward, backward, Adam. A learning rate of zero costs the same and keeps the weights."""
        some, frame = self.people.take(count), self.frame
        trained = [weight for weight in frame.parameters() if weight.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=0.0, eps=1e-5)

        def step(run: Callable[[], Scores], precision: str) -> None:
            frame.train()
            optimiser.zero_grad(set_to_none=True)
            with self.cast(precision):
                loss = F.mse_loss(torch.stack(run(), dim=1), some.target, reduction="sum") / count
            loss.backward()
            optimiser.step()

        runs = [("straightforward, CLIP in the step", "float32", lambda: self.plain(some))]
        for precision in precisions:
            runs.append(("CLIP in the step", precision, lambda: self.whole(some, self.shared)))
            runs.append(("tabled vectors", precision, lambda: self.whole(some, self.shared, tabled=True)))
        # Three times the forward pass for what is trained, once for the frozen tower.
        work = {"tabled vectors": 3 * GFLOP["tabled"]}
        return [
            Case(name, partial(step, run, precision), count, precision, work.get(name, 3 * GFLOP["tabled"] + GFLOP["CLIP"]))
            for name, precision, run in runs
        ]


@torch.inference_mode()
def differences(load: Load, count: int, precisions: list[str]) -> dict[str, dict[str, float]]:
    """How far outputs lie apart: mesh features from the straightforward ones, scores from those in float32."""
    some, frame = load.people.take(count), load.frame.eval()
    plain = straightforward.mesh_stream(frame.mesh, some.vertices)
    found = {"spread of mesh features": {"max": plain.std().item()}}
    for how in ("expanded", "direct", "shared"):
        found[f"mesh, {how}"] = apart(load.mesh(some.vertices, how), plain)
    frame.mesh.set_literal(True)
    found["mesh, literal"] = apart(load.mesh(some.vertices, "expanded"), plain)
    frame.mesh.set_literal(False)
    scores = torch.stack(load.whole(some), 1)
    found["scores, straightforward"] = apart(torch.stack(load.plain(some), 1), scores)
    found["scores, shared mesh tables"] = apart(torch.stack(load.whole(some, load.shared), 1), scores)
    for precision in precisions:
        with load.cast(precision):
            found[f"scores, {precision}"] = apart(torch.stack(load.whole(some), 1), scores)
    return found


def apart(a: Tensor, b: Tensor) -> dict[str, float]:
    gap = (a.float() - b.float()).abs()
    return {"max": gap.max().item(), "mean": gap.mean().item()}
