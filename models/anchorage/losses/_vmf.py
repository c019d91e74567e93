"""Von Mises-Fisher distributions on the sphere: log normalizer, mean resultant length, differentiable samples."""

import math
from itertools import pairwise

import keras
from keras import ops

from anchorage.geometry import unit_rows

# Debye's polynomials u1, u2, u3 in p: coefficients of rising powers, and their common divisors.
_DEBYE = (
    ({1: 3, 3: -5}, 24),
    ({2: 81, 4: -462, 6: 385}, 1152),
    ({3: 30375, 5: -369603, 7: 765765, 9: -425425}, 414720),
)
_POLY = {128: (127.0, 0.01909, 0.003355), 512: (868.0, 0.0002662, 0.0009685)}
_DEBYE_FROM = 48  # least D where the expansion is taken as it is
PROPOSALS = 12  # acceptance is 0.73 or more: all are refused once in six million draws
_SHORTEST = 1e-7


def log_normalizer(kappa, dim: int, approximation: str = "accurate", *, relative: bool = False):
    """`log C_D(kappa)` of the density `C exp(kappa m.x)` on the sphere in R^D.

    - `"accurate"`: within 1e-6 for every D and kappa from 0 to 500. It is `"debye3"` from D = 48 on; below that at a
      larger D, brought down by the recurrence of the Bessel functions, which is exact.
    - `"debye3"`: Debye's uniform expansion of the Bessel function with three terms. Within 1e-9 at D = 128, 8e-6 at
      16, but 0.06 at 3.
    - `"poly"`: the published quadratic, right to 0.3 up to kappa = 50, off by 56 at 500; fitted at
      D = 128 and, for every other D, at 512.

    Args:
        kappa: float tensor, above 0.
        dim: D, at least 3.
        approximation: see above.
        relative: leave out the value at 0, near 868 for D = 512, that cancels in a softmax.
    """
    if approximation == "poly":
        constant, linear, square = _POLY.get(dim, _POLY[512])
        value = -linear * kappa - square * ops.square(kappa)
        return value if relative else value + constant
    if approximation == "debye3":
        value = _debye_normalizer(kappa, dim)
        nu = dim / 2.0 - 1.0
        at_zero = nu * (math.log(2.0 * nu) - 1.0) - 0.5 * dim * math.log(2.0 * math.pi)
        at_zero = at_zero + 0.5 * math.log(2.0 * math.pi * nu) - math.log(_debye(1.0, nu))
        return value if relative else value + at_zero
    value = _debye_normalizer(kappa, dim + 2 * _steps_up(dim))
    for (_, before), (v, _) in pairwise(_ratios(kappa, dim)):
        value = value - ops.log1p(ops.square(kappa) / (2.0 * v * before))
    # One over the area of the sphere.
    return value if relative else value + math.lgamma(dim / 2.0) - math.log(2.0) - 0.5 * dim * math.log(math.pi)


def mean_resultant(kappa, dim: int):
    """`A_D(kappa) = -d log C_D / d kappa`, the mean cosine to the mode, in [0, 1); as `"accurate"` as the above."""
    return kappa / _ratios(kappa, dim)[-1][1]


def _debye_normalizer(kappa, dim: int):
    """`"debye3"` less its value at 0."""
    nu = dim / 2.0 - 1.0
    beyond = _beyond_one(kappa / nu)  # s - 1, with s = sqrt(1 + x^2)
    value = nu * (ops.log1p(0.5 * beyond) - beyond) + 0.5 * ops.log1p(beyond)
    return value - ops.log(_debye(1.0 / (1.0 + beyond), nu)) + math.log(_debye(1.0, nu))


def _ratios(kappa, dim: int):
    """Pairs of v and `kappa I_(v - 1) / I_v`, v falling to D / 2: by the expansion, then by the exact recurrence."""
    order = (dim + 2 * _steps_up(dim)) / 2.0 - 1.0
    x = kappa / order
    s = 1.0 + _beyond_one(x)
    slope = _debye(1.0 / s, order, slope=True) / _debye(1.0 / s, order)
    share = 1.0 / (1.0 + s) - 1.0 / (2.0 * order * ops.square(s)) - slope / (order * s**3)  # A / x
    found = [(order + 1.0, order / share)]
    for _ in range(_steps_up(dim)):
        v, before = found[-1]
        found.append((v - 1.0, 2.0 * (v - 1.0) + ops.square(kappa) / before))
    return found


def _steps_up(dim: int) -> int:
    return max(0, -(-(_DEBYE_FROM - dim) // 2))


def _beyond_one(x):
    return ops.square(x) / (1.0 + ops.sqrt(1.0 + ops.square(x)))


def _debye(p, nu: float, slope: bool = False):
    """The series `1 + u1 / nu + u2 / nu^2 + u3 / nu^3` at `p`, or its derivative."""
    total = 0.0 if slope else 1.0
    for order, (terms, divisor) in enumerate(_DEBYE, start=1):
        for power, factor in terms.items():
            shape = power * p ** (power - 1) if slope else p**power
            total = total + factor / (divisor * nu**order) * shape
    return total


def draw_vmf(directions, kappa, samples: int, seed: keras.random.SeedGenerator, published: bool = False):
    """Draw from vMF distributions by rejection sampling; gradients reach directions and concentrations.

    Args:
        directions: `(N, D)` unit rows.
        kappa: `(N,)` concentrations.
        samples: number of samples of each.
        seed: advanced by each call.
        published: use the proposals of the published code, whose samples lie too far from the direction for
            concentrations above 10 that are not far above D.

    Returns:
        `(samples, N, D)` unit rows.
    """
    count, dim = ops.shape(directions)[0], directions.shape[1]
    dtype = directions.dtype
    shape = (PROPOSALS, samples, count)
    beta = _draw_beta(shape, dim, dtype, seed)
    uniform = keras.random.uniform(shape, dtype=dtype, seed=seed)
    accepted = _accept(beta, ops.stop_gradient(kappa), dim, uniform, published)
    # The first accepted proposal; the last one where none was.
    first = ops.argmax(ops.concatenate([accepted[:-1], ops.ones_like(accepted[-1:])], axis=0), axis=0)
    beta = ops.take_along_axis(beta, first[None], axis=0)[0]
    tangents = unit_rows(keras.random.normal((samples, count, dim - 1), dtype=dtype, seed=seed))
    return place_draws(directions, kappa, beta, tangents, published)


def _draw_beta(shape, dim: int, dtype, seed):
    """Draws of Beta((D - 1) / 2, (D - 1) / 2), as one coordinate of a uniform direction in R^D has it, from -1 to 1.

    The first two coordinates lie at a uniform angle, at a distance whose square is one minus a power of a uniform
    number. `keras.random.beta` rejects proposals, which TensorFlow cannot compile with XLA.
    """
    power = ops.log(keras.random.uniform(shape, dtype=dtype, seed=seed)) * (2.0 / (dim - 2.0))
    angle = keras.random.uniform(shape, maxval=2.0 * math.pi, dtype=dtype, seed=seed)
    return 0.5 + 0.5 * ops.sqrt(-ops.expm1(power)) * ops.cos(angle)


def place_draws(directions, kappa, beta, tangents, published: bool = False):
    """Turn beta draws (S, N) and unit tangents (S, N, D - 1) into draws (S, N, D) around `directions`."""
    dim = directions.shape[1]
    b, _ = _envelope(kappa, dim, published)
    cosine = (1.0 - (1.0 + b) * beta) / (1.0 - (1.0 - b) * beta)
    sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), _SHORTEST))
    draws = ops.concatenate([cosine[..., None], sine[..., None] * tangents], axis=-1)
    # A reflection that takes the first axis to the direction.
    first_axis = ops.concatenate([ops.ones_like(directions[:, :1]), ops.zeros_like(directions[:, 1:])], axis=1)
    mirror = first_axis - directions
    length = ops.sqrt(ops.maximum(ops.sum(ops.square(mirror), axis=1, keepdims=True), _SHORTEST**2))
    mirror = mirror / length
    return draws - 2.0 * ops.sum(draws * mirror, axis=-1, keepdims=True) * mirror


def _envelope(kappa, dim: int, published: bool):
    root = ops.sqrt(4.0 * ops.square(kappa) + (dim - 1.0) ** 2)
    b = (dim - 1.0) / (2.0 * kappa + root)
    if published:  # the limit of b for kappa far above D, faded in between 10 and 11
        share = ops.clip(kappa - 10.0, 0.0, 1.0)
        b = share * (dim - 1.0) / (4.0 * ops.maximum(kappa, 1.0)) + (1.0 - share) * b
    return b, (dim - 1.0 + 2.0 * kappa + root) / 4.0


def _accept(beta, kappa, dim: int, uniform, published: bool):
    b, a = _envelope(kappa, dim, published)
    most = 4.0 * a * b / (1.0 + b) - (dim - 1.0) * math.log(dim - 1.0)
    t = 2.0 * a * b / (1.0 - (1.0 - b) * beta)
    accepted = (dim - 1.0) * ops.log(t) - t + most > ops.log(ops.maximum(uniform, 1e-30))
    return ops.cast(accepted, "int32")
