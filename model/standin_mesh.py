"""From an implicit surface to a mesh of an exact number of vertices: surface nets, edge collapse, smoothing.

Notable: everything works on the left half, whose border lies in the plane x = 0; mirroring it gives a closed
surface with exactly symmetrical triangles.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np


def surface_nets(x: np.ndarray, y: np.ndarray, z: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangulates d = 0 (naive surface nets, Gibson 1998): one vertex per mixed cell, one quad per crossed edge.

    `d` (nx, ny, nz) is given at the nodes of a rectilinear grid whose first layer of cells straddles x = 0.
    Returns the half with x >= 0: vertices (V, 3), faces (F, 3) with outward normals.
    """
    inside = d < 0
    axes = (x, y, z)
    shape = np.array(d.shape) - 1
    total, count = np.zeros((*shape, 3)), np.zeros(shape)
    for axis in range(3):
        lo, hi = [slice(None)] * 3, [slice(None)] * 3
        lo[axis], hi[axis] = slice(0, -1), slice(1, None)
        a, b = d[tuple(lo)], d[tuple(hi)]
        at = np.argwhere((a < 0) != (b < 0))
        va, vb = a[tuple(at.T)], b[tuple(at.T)]
        t = va / (va - vb)
        p = np.stack([axes[k][at[:, k]] for k in range(3)], 1)
        p[:, axis] += t * (axes[axis][at[:, axis] + 1] - axes[axis][at[:, axis]])
        others = [k for k in range(3) if k != axis]
        for du in (0, 1):
            for dv in (0, 1):
                cell = at.copy()
                cell[:, others[0]] -= du
                cell[:, others[1]] -= dv
                ok = ((cell >= 0) & (cell < shape)).all(1)
                np.add.at(total, tuple(cell[ok].T), p[ok])
                np.add.at(count, tuple(cell[ok].T), 1)
    used = count > 0
    number = np.full(shape, -1)
    number[used] = np.arange(used.sum())
    vertices = total[used] / count[used][:, None]
    vertices[np.argwhere(used)[:, 0] == 0, 0] = 0.0
    quads = []
    for axis in range(3):
        lo, hi = [slice(None)] * 3, [slice(None)] * 3
        lo[axis], hi[axis] = slice(0, -1), slice(1, None)
        a, b = inside[tuple(lo)], inside[tuple(hi)]
        at = np.argwhere(a != b)
        at = at[at[:, 0] >= 1]  # the half with x >= 0
        outward = a[tuple(at.T)]
        u, v = (axis + 1) % 3, (axis + 2) % 3
        ring = []
        for du, dv in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = at.copy()
            cell[:, u] -= du
            cell[:, v] -= dv
            ring.append(number[tuple(cell.T)])
        q = np.stack(ring, 1)
        q[~outward] = q[~outward][:, ::-1]
        quads.append(q)
    q = np.concatenate(quads)
    p = vertices[q]
    first = ((p[:, 0] - p[:, 2]) ** 2).sum(1) <= ((p[:, 1] - p[:, 3]) ** 2).sum(1)
    faces = np.where(first[:, None, None], q[:, [[0, 1, 2], [0, 2, 3]]], q[:, [[0, 1, 3], [1, 2, 3]]]).reshape(-1, 3)
    return vertices, faces


def collapse(vertices: np.ndarray, faces: np.ndarray, target: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapses the relatively shortest edges until the *mirrored* mesh has exactly `count` vertices.

    `target` (V,) is the wanted edge length at each vertex; only its proportions matter. A vertex off the middle
    plane counts twice. Edges are collapsed only where the surface stays a manifold (link condition) and no
    triangle turns over. Raises ValueError if `count` cannot be reached.
    """
    pos = [tuple(p) for p in vertices.tolist()]
    size = target.tolist()
    border = [p[0] == 0.0 for p in pos]
    tri: list[tuple[int, int, int] | None] = [tuple(f) for f in faces.tolist()]
    of: list[set[int]] = [set() for _ in pos]
    for i, f in enumerate(tri):
        for v in f:
            of[v].add(i)

    def cost(a: int, b: int) -> float:
        p, q = pos[a], pos[b]
        length = ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2) ** 0.5
        return length / (size[a] + size[b])

    def normal(p, q, r):
        ux, uy, uz = q[0] - p[0], q[1] - p[1], q[2] - p[2]
        vx, vy, vz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
        return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx

    def ring(v: int) -> set[int]:
        out = {w for i in of[v] for w in tri[i]}
        out.discard(v)
        return out

    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    edges = np.unique(edges, axis=0)
    heap = [(cost(a, b), a, b) for a, b in edges.tolist()]
    heapq.heapify(heap)
    alive = [True] * len(pos)
    now = sum(1 if b else 2 for b in border)
    while now > count and heap:
        c, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        fresh = cost(a, b)
        if fresh > c * (1 + 1e-12) or fresh < c * (1 - 1e-12):
            continue  # an outdated entry: the current one is in the heap as well
        shared = of[a] & of[b]
        if border[b] and not border[a]:
            a, b = b, a
        if border[a] and border[b] and len(shared) != 1:
            continue  # would pinch the border
        if not border[b] and now - count == 1:
            continue  # one vertex too many: only an edge of the border will do
        ring_a, ring_b = ring(a), ring(b)
        if len(ring_a & ring_b) != len(shared) or (len(shared) == 2 and len(ring_a | ring_b) < 6):
            continue
        if border[a] and not border[b]:
            middle = pos[a]
        else:
            middle = tuple(0.5 * (p + q) for p, q in zip(pos[a], pos[b]))
        good = True
        for v in (a, b):
            for i in of[v]:
                if i in shared:
                    continue
                corner = [pos[w] for w in tri[i]]
                moved = [middle if w == v else pos[w] for w in tri[i]]
                n, m = normal(*corner), normal(*moved)
                dot = n[0] * m[0] + n[1] * m[1] + n[2] * m[2]
                nn = n[0] ** 2 + n[1] ** 2 + n[2] ** 2
                mm = m[0] ** 2 + m[1] ** 2 + m[2] ** 2
                if dot <= 0.5 * (nn * mm) ** 0.5:
                    good = False
                    break
            if not good:
                break
        if not good:
            continue
        now -= 1 if border[b] else 2
        for i in shared:
            for w in tri[i]:
                of[w].discard(i)
            tri[i] = None
        for i in list(of[b]):
            tri[i] = tuple(a if w == b else w for w in tri[i])
            of[a].add(i)
        of[b].clear()
        alive[b] = False
        pos[a] = middle
        size[a] = 0.5 * (size[a] + size[b])
        for w in ring(a):
            heapq.heappush(heap, (cost(a, w), min(a, w), max(a, w)))
    if now != count:
        raise ValueError(f"edge collapse ended at {now} vertices, {count} wanted: start from a finer grid")
    keep = np.flatnonzero(alive)
    number = np.full(len(pos), -1)
    number[keep] = np.arange(len(keep))
    out = np.array([f for f in tri if f is not None])
    return np.array(pos)[keep], number[out]


def neighbours(faces: np.ndarray, n: int):
    """Row-normalised adjacency of the mesh as a scipy CSR matrix (n, n)."""
    from scipy.sparse import coo_matrix, diags

    i = np.concatenate([faces[:, k] for k in (0, 1, 2, 1, 2, 0)])
    j = np.concatenate([faces[:, k] for k in (1, 2, 0, 0, 1, 2)])
    a = coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    a.data[:] = 1.0
    return diags(1.0 / np.maximum(np.asarray(a.sum(1)).ravel(), 1.0)) @ a


def relax(
    vertices: np.ndarray, faces: np.ndarray, project: Callable[[np.ndarray], np.ndarray], rounds: int
) -> np.ndarray:
    """Evens out the triangles of the half: moves vertices to their neighbours' mean, then back to the surface."""
    p = vertices.copy()
    middle = p[:, 0] == 0.0
    mean = neighbours(faces, len(p))
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    edges, times = np.unique(edges, axis=0, return_counts=True)
    rim = neighbours(np.concatenate([edges[times == 1], edges[times == 1][:, :1]], 1), len(p))
    for _ in range(rounds):
        q = mean @ p
        q[middle] = (rim @ p)[middle]
        p = project(np.where(middle[:, None], [0.0, 1.0, 1.0], 1.0) * (0.4 * p + 0.6 * q))
    return p


def mirror(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left half + its mirror image = whole body. Returns vertices, faces and each vertex's twin (V,)."""
    n = len(vertices)
    middle = vertices[:, 0] == 0.0
    twin_of = np.arange(n)
    twin_of[~middle] = n + np.arange((~middle).sum())
    right = vertices[~middle] * [-1.0, 1.0, 1.0]
    both = np.concatenate([vertices, right])
    twin = np.concatenate([twin_of, np.flatnonzero(~middle)])
    return both, np.concatenate([faces, twin_of[faces][:, ::-1]]), twin
