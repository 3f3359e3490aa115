"""How operations carry axes of their operands to their results: one rule for each kind of primitive.

A primitive without a rule mixes all lanes. That is always right, at worst noisier, so the table may grow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ppl.analysis.positions import FIRST, FROM, SAME, UPTO, AxisMap, shift
from ppl.primitives import choice_p, density_p, lane_shapes

Shape = tuple[int, ...]
MIXED: AxisMap = {}

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil
    clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne
    neg nextafter not or polygamma population_count pow random_gamma_grad real reduce_precision rem round rsqrt
    regularized_incomplete_beta select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    sub tan tanh xor zeta""".split()
)
_ELEMENTWISE |= {"stop_gradient", "one_minus_square", "assume_continuous", "jump_guard", "possible_product"}
_ELEMENTWISE |= {"sharding_constraint"}
_REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split()
)
_CUMULATIVE = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
_MATRICES = frozenset("cholesky triangular_solve lu eigh svd qr householder_product tridiagonal_solve".split())


def is_elementwise(name: str) -> bool:
    """Tell whether each element of a primitive's result is computed from the elements at its place."""
    return name in _ELEMENTWISE


def axis_maps(eqn) -> list[AxisMap]:
    """Return for each operand of an equation how its axes reach the results."""
    name, shapes = eqn.primitive.name, [tuple(var.aval.shape) for var in eqn.invars]
    if not eqn.outvars:
        return [MIXED] * len(shapes)
    out = tuple(eqn.outvars[0].aval.shape)
    if eqn.primitive in (choice_p, density_p):
        return _choice(eqn, shapes, out)
    if name in _ELEMENTWISE:
        return [{**_keep(shape, out), **_spread(shape, out)} for shape in shapes]
    if name in _REDUCTIONS:
        return [_without(shape, eqn.params["axes"]) for shape in shapes]
    if name in _CUMULATIVE:
        return [_cumulative(shapes[0], eqn.params["axis"], eqn.params["reverse"])]
    if name in _MATRICES:
        return [_keep(shape[:-2], out[: max(len(shape) - 2, 0)]) for shape in shapes]
    rule = _RULES.get(name)
    return [MIXED] * len(shapes) if rule is None else rule(eqn.params, shapes, out)


def _same(pairs) -> AxisMap:
    return {first: (second, SAME) for first, second in pairs}


def _keep(shape: Shape, out: Shape, drop: Sequence[int] = ()) -> AxisMap:
    """Map every axis to itself, but those that are mixed."""
    if len(shape) != len(out):
        return MIXED
    return _same((i, i) for i in range(len(shape)) if shape[i] == out[i] and i not in drop)


def _spread(shape: Shape, out: Shape) -> AxisMap:
    """Map axes of one place that a result repeats."""
    return {i: FIRST for i in range(len(shape)) if len(shape) == len(out) and shape[i] == 1 != out[i]}


def _without(shape: Shape, dropped: Sequence[int]) -> AxisMap:
    """Map the axes that stay when others go; of one place, all that is left depends on that place."""
    kept = _same((axis, place) for place, axis in enumerate(i for i in range(len(shape)) if i not in dropped))
    return {**kept, **{axis: FIRST for axis in dropped if shape[axis] == 1}}


def _cumulative(shape: Shape, axis: int, reverse: bool) -> AxisMap:
    return {i: (i, SAME if i != axis else FROM if reverse else UPTO) for i in range(len(shape))}


def _broadcast(params, shapes, out):
    pairs = list(enumerate(params["broadcast_dimensions"]))
    spread = {i: FIRST for i, j in pairs if shapes[0][i] == 1 != out[j]}
    kept = _same((i, j) for i, j in pairs if shapes[0][i] == out[j])
    return [{**kept, **spread}, *[MIXED] * (len(shapes) - 1)]


def _reshape(params, shapes, out):
    if params.get("dimensions") is not None:
        return [MIXED] * len(shapes)
    before = dict(zip(_products(out), range(len(out)), strict=True))  # Of equal products, the axis itself is the last.
    pairs = [(i, before.get(product)) for i, product in enumerate(_products(shapes[0]))]
    pairs = [(i, j) for i, j in pairs if j is not None and shapes[0][i] == out[j] and shapes[0][i] > 1]
    single = {i: FIRST for i, size in enumerate(shapes[0]) if size == 1}
    return [{**single, **_same(pairs)}, *[MIXED] * (len(shapes) - 1)]


def _products(shape: Shape) -> list[int]:
    """Return the number of elements in front of each axis."""
    return list(itertools.accumulate(shape, lambda a, b: a * b, initial=1))[: len(shape)]


def _transpose(params, shapes, out):
    return [_same((axis, place) for place, axis in enumerate(params["permutation"]))]


def _squeeze(params, shapes, out):
    return [_without(shapes[0], [axis % len(shapes[0]) for axis in params["dimensions"]])]


def _concatenate(params, shapes, out):
    axis, maps, start = params["dimension"], [], 0
    for shape in shapes:
        maps.append({**_keep(shape, out, (axis,)), axis: (axis, shift(-start))})
        start += shape[axis]
    return maps


def _stack(params, shapes, out):
    axis = params["axis"] % len(out)
    return [_same((i, i + (i >= axis)) for i in range(len(shape))) for shape in shapes]


def _unstack(params, shapes, out):
    return [_without(shapes[0], [params["axis"] % len(shapes[0])])]


def _tile(params, shapes, out):
    return [_keep(shapes[0], out, [i for i, count in enumerate(params["reps"]) if count != 1])]


def _slice(params, shapes, out):
    starts, strides = params["start_indices"], params["strides"] or (1,) * len(out)
    cut = [i for i in range(len(out)) if shapes[0][i] != out[i]]
    return [{**_keep(shapes[0], out, cut), **{i: (i, shift(starts[i])) for i in cut if strides[i] == 1}}]


def _rev(params, shapes, out):
    return [_keep(shapes[0], out, params["dimensions"])]


def _pad(params, shapes, out):
    configs = dict(enumerate(params["padding_config"]))
    moved = [i for i, config in configs.items() if tuple(config) != (0, 0, 0)]
    shifts = {i: (i, shift(-configs[i][0])) for i in moved if configs[i][2] == 0}
    return [{**_keep(shapes[0], out, moved), **shifts}, MIXED]


def _dynamic_slice(params, shapes, out):
    return [_keep(shapes[0], out), *[MIXED] * (len(shapes) - 1)]


def _dynamic_update_slice(params, shapes, out):
    return [_keep(shape, out) for shape in shapes[:2]] + [MIXED] * (len(shapes) - 2)


def _sort(params, shapes, out):
    return [_keep(shape, out, (params["dimension"],)) for shape in shapes]


def _split(params, shapes, out):
    return [_same((i, i) for i in range(len(out)) if i != params["axis"])]


def _top_k(params, shapes, out):
    return [_keep(shapes[0], out, (params.get("axis", len(out) - 1) % len(out),))]


def _dot_general(params, shapes, out):
    (contracted, batch) = params["dimension_numbers"]
    maps, start = [], len(batch[0])
    for shape, gone, lead in zip(shapes, contracted, batch, strict=True):
        free = [i for i in range(len(shape)) if i not in gone and i not in lead]
        maps.append(_same([*zip(lead, range(len(lead)), strict=True), *((a, start + i) for i, a in enumerate(free))]))
        start += len(free)
    return maps


def _gather(params, shapes, out):
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    operand, indices = shapes
    batch_out = [i for i in range(len(out)) if i not in numbers.offset_dims]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = zip([i for i in range(len(operand)) if i not in gone], numbers.offset_dims, strict=True)
    index_axes = zip(range(len(indices) - 1), batch_out, strict=True)  # The axis of coordinates is the last.
    by_index = dict(index_axes)
    pairs = [(i, j) for i, j in window if sizes[i] == operand[i]]
    batching = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    pairs += [(i, by_index[at]) for i, at in batching]
    return [_same(pairs), _same(by_index.items())]


def _convolution(params, shapes, out):
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        return [MIXED] * 2
    return [_same([(numbers.lhs_spec[0], numbers.out_spec[0])]), MIXED]


def _fft(params, shapes, out):
    return [_keep(shapes[0], out, range(len(out) - len(params["fft_lengths"]), len(out)))]


_RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "sort": _sort,
    "split": _split,
    "top_k": _top_k,
    "dot_general": _dot_general,
    "gather": _gather,
    "conv_general_dilated": _convolution,
    "fft": _fft,
}


# --- The language's own primitives -------------------------------------------------------------------------------


def _choice(eqn, shapes, out) -> list[AxisMap]:
    """Map lanes and batch axes of a choice's operands (of a density: the value first) to those of the result."""
    spec, lanes = eqn.params["spec"], eqn.params["lanes"]
    is_density = eqn.primitive is density_p
    own = lane_shapes(shapes, lanes)
    first = int(is_density)
    num_params = len(spec.names)
    params = own[first : first + num_params]
    batch_ndim, event_ndim = len(spec.batch_shape(params)), len(spec.event_shape(params))
    events = [event_ndim] * first + list(spec.event_ndims) + [0] * (len(own) - first - num_params)
    mask = len(own) - 1 if eqn.params["masked"] else None
    strategy = eqn.params.get("strategy")
    if strategy is not None and strategy.learns and eqn.params["baseline"]:
        events[num_params] = 1  # What the strategy learns is one array, whatever the batch.
    return [
        _operand(i, shapes[i], own[i], event, lanes, batch_ndim, out, is_mask=i == mask)
        for i, event in enumerate(events)
    ]


def _operand(i, shape, own, event, lanes, batch_ndim, out, is_mask) -> AxisMap:
    mapped = [place for place, lane in enumerate(lanes) if lane.mapped[i]]
    pairs = list(enumerate(mapped))
    if not is_mask:
        batch = len(own) - event
        start = len(lanes) + batch_ndim - batch
        pairs += [(len(mapped) + j, start + j) for j in range(batch)]
    return _same((a, b) for a, b in pairs if a < len(shape) and shape[a] == out[b])
