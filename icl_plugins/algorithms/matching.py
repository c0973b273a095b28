"""Gradient matching: choose rows whose mean is nearest to the mean of all rows.

Minimises J(S) = || mean of the chosen features - target ||_2 over sets S of n rows, greedily and then by
best single swaps (CLG, arXiv 2506.04579, sections on greedy selection and local search). With u = feature -
target and s = sum of the chosen u, greedy picks the row with the least ||u||^2 + 2 <u, s>, and a swap of i
for j changes ||s||^2 by ||u_i||^2 + ||u_j||^2 - 2 <s, u_i> + 2 <s, u_j> - 2 <u_i, u_j>.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_plugins.algorithms.arrays import from_tensor, refuse_non_finite
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.constraints import Constraints, Feasible, resolve
from icl_plugins.algorithms.features import Features, gram_matrix
from icl_plugins.algorithms.kernels import TIE, FeatureKernel, GramKernel, Kernel
from icl_plugins.algorithms.search import Tell, greedy, refine, silent
from icl_plugins.errors import DataError, NonFiniteError, SettingError

_LARGEST_GRAM = 16_384  # rows: 2 GB


@dataclass(frozen=True, eq=False)
class Match:
    """A matched set, in the order of the prompt: as picked, a swapped-in row in the place of its forerunner.

    indices: (n,) int64, distinct rows. trace: (n,) float64, J of the first t rows for t = 1..n. scores: (n,)
    float64, how much J rises when this row alone is taken away (higher = better; below 0 when J would fall;
    0 for n = 1). swaps: accepted swaps. converged: no single swap lowers J further (False when the limit was
    reached first, or swaps=0). random_objective: root of the mean of J^2 over random sets of n rows. spread:
    the same for n = 1; without a target, sets of n of N rows have spread * sqrt((N - n) / (n (N - 1))).
    """

    indices: np.ndarray
    trace: np.ndarray
    scores: np.ndarray
    swaps: int
    converged: bool
    random_objective: float
    spread: float


def match(
    features: Any,
    shots: int | None = None,
    *,
    target: Any = None,
    swaps: int = 32,
    rtol: float = 1e-6,
    constraints: Constraints | None = None,
    progress: Tell = silent,
) -> Match:
    """Choose rows of features so that their mean matches the target.

    features: (N, d) array, memory-mapped file or tensor, float16 to float64; a sequence of blocks (N, d_e),
    one per checkpoint, read as if side by side; or `Features` from `scale_blocks`. Never copied whole: data
    that do not fit in memory are streamed, once per pick and once per accepted swap. target: (d,), in the
    units of the scaled features; None is the mean of all rows, excluded ones too. swaps: most swaps accepted,
    a swap being accepted when J^2 falls by more than `rtol` relative. constraints: from `resolve`, instead of
    shots; with a budget but no shots, rows are picked until no other fits. progress: is told the stage
    ("greedy", "swaps"), what is done of it, and the total.

    Scores are compared in float64; equal ones (to 1e-12) are decided for the lowest row, in swaps then for
    the lowest position. Raises DataError (shape, type), NonFiniteError (rows), SettingError, BudgetError.
    """
    features = Features.of(features)
    constraints = _checked(len(features), shots, swaps, rtol, constraints)
    goal = None if target is None else _as_target(target, sum(features.widths))
    peaks = features.largest()
    unit = _unit(float((peaks * np.abs(features.block_scale)).max()))
    features = features.scaled(1 / unit)
    goal = features.mean() if goal is None else goal / unit
    if constraints.shots is not None and len(features) <= min(10 * constraints.shots, _LARGEST_GRAM):
        # With many shots the whole Gram matrix costs less than a pass over the features for each of them.
        kernel: Kernel = GramKernel(gram_matrix(features, goal))
    else:
        kernel = FeatureKernel(features, goal, peaks)
    offset = 0.0 if target is None else float(np.linalg.norm(features.mean() - goal))
    return _match(kernel, constraints, swaps, rtol, unit, offset, progress)


def match_gram(
    gram: Any,
    shots: int | None = None,
    *,
    swaps: int = 32,
    rtol: float = 1e-6,
    constraints: Constraints | None = None,
    progress: Tell = silent,
) -> Match:
    """Choose rows as `match` does, from the (N, N) Gram matrix of centred features (`centered_gram`).

    Raises DataError when the matrix is not square, symmetric and of non-negative diagonal, NonFiniteError
    for NaN and infinity, SettingError and BudgetError.
    """
    matrix = Features.of(gram).blocks[0]
    if matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"a Gram matrix of shape {matrix.shape}", expected="(N, N)", fix="use centered_gram")
    constraints = _checked(len(matrix), shots, swaps, rtol, constraints)
    matrix = np.asarray(matrix, dtype=np.float64)
    refuse_non_finite(matrix)
    scale = float(np.abs(matrix).max())
    if matrix.diagonal().min() < 0 or np.abs(matrix - matrix.T).max() > 1e-6 * scale:
        raise DataError(
            "a matrix that is no Gram matrix",
            expected="symmetric, no negative diagonal",
            fix="use centered_gram",
        )
    offset = float(np.sqrt(matrix.mean())) if matrix.mean() > TIE * matrix.diagonal().mean() else 0.0
    return _match(GramKernel(matrix), constraints, swaps, rtol, 1.0, offset, progress)


def centered_gram(blocks: Any, *, target: Any = None) -> np.ndarray:
    """Return the (N, N) float64 Gram matrix of features less their mean, or less a (d,) target.

    blocks: as `features` of `match`, or any iterable of blocks (N, d_e): the matrix adds up over checkpoints,
    so a generator may drop each block after use. Raises DataError and NonFiniteError.
    """
    single = isinstance(blocks, Features) or hasattr(blocks, "ndim")
    parts = [Features.of(blocks)] if single else (Features.of([block]) for block in blocks)
    goal = None if target is None else _as_vector(target)
    gram, start = np.zeros((0, 0)), 0
    for part in parts:
        part.largest()
        width = sum(part.widths)
        centre = part.mean() if goal is None else _as_target(goal[start : start + width], width)
        start += width
        gram = _sum(gram, gram_matrix(part, centre))
    if start == 0 or (goal is not None and len(goal) != start):
        raise DataError(
            f"blocks of {start} columns in all and a target of {None if goal is None else len(goal)}",
            expected="a block at least, and a target of the same width",
            fix="pass both from the same checkpoints",
        )
    return gram


def _sum(gram: np.ndarray, more: np.ndarray) -> np.ndarray:
    if len(gram) not in (0, len(more)):
        raise DataError(
            f"blocks of {len(gram)} and {len(more)} rows",
            expected="the same rows in every block",
            fix="use one pool",
        )
    return gram + more if len(gram) else more


def _checked(
    pool_size: int, shots: int | None, swaps: int, rtol: float, constraints: Constraints | None
) -> Constraints:
    whole_number("swaps", swaps, 0)
    if isinstance(rtol, bool) or not isinstance(rtol, float | int) or not 0 <= rtol < 1:
        raise SettingError(f"rtol={rtol!r}", expected="a number from 0 to below 1", fix="pass rtol=1e-6")
    if constraints is None:
        return resolve(pool_size, None, shots)
    if shots not in (None, constraints.shots) or len(constraints.groups) != pool_size:
        raise SettingError(
            f"shots={shots} and {pool_size} rows, with constraints for {constraints.shots} of "
            f"{len(constraints.groups)} rows",
            expected="constraints made for these rows, and shots only there",
            fix="call constraints.resolve for this pool",
        )
    return constraints


def _as_vector(target: Any) -> np.ndarray:
    try:
        return np.asarray(from_tensor(target), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"a target of type {type(target).__name__}",
            expected="numbers (d,): an array or a dense tensor",
            fix="convert it with numpy.asarray",
        ) from error


def _as_target(target: Any, width: int) -> np.ndarray:
    goal = _as_vector(target)
    if goal.shape != (width,):
        raise DataError(
            f"a target of shape {goal.shape} for features of width {width}",
            expected=f"({width},)",
            fix="make the target from the same checkpoints in the same order",
        )
    if not np.isfinite(goal).all():
        raise NonFiniteError("NaN or infinity in the target", expected="finite numbers", fix="recompute it")
    return goal


def _unit(largest: float) -> float:
    """Return the power of two to divide by, so that squares stay in range; 1 for all but extreme data."""
    extreme = largest > 0 and not 1e-100 < largest < 1e100
    return float(np.ldexp(1.0, max(int(np.frexp(largest)[1]), -1000) - 1)) if extreme else 1.0


def _match(
    kernel: Kernel,
    constraints: Constraints,
    swaps: int,
    rtol: float,
    unit: float,
    offset: float,
    tell: Tell,
) -> Match:
    feasible, wanted = Feasible(constraints), constraints.shots
    greedy(kernel, feasible, wanted, tell)
    accepted, converged = refine(kernel, feasible, swaps, rtol, tell) if swaps else (0, False)
    while feasible.allowed().any():  # cheaper rows that were swapped in left room in the budget
        greedy(kernel, feasible, wanted, tell)
        more, converged = refine(kernel, feasible, swaps - accepted, rtol, tell)
        accepted += more
    indices = np.asarray(feasible.indices, dtype=np.int64)
    shots = len(indices)
    prefix, without = kernel.lengths(indices)
    trace = prefix / np.arange(1, shots + 1) * unit
    scores = without / (shots - 1) * unit - trace[-1] if shots > 1 else np.zeros(1)
    return Match(
        indices,
        trace,
        scores,
        accepted,
        converged,
        unit * _random_objective(kernel.squared_norms, shots, offset),
        unit * _random_objective(kernel.squared_norms, 1, offset),
    )


def _random_objective(squared_norms: np.ndarray, shots: int, offset: float) -> float:
    """Root of E J^2 over random sets: (N-n)/(n(N-1)) times the variance, plus the mean's distance squared."""
    size = len(squared_norms)
    variance = max(float(squared_norms.mean()) - offset**2, 0.0)
    return float(np.sqrt(offset**2 + (size - shots) / (shots * max(size - 1, 1)) * variance))
