"""Distributions of vectors and matrices."""

from __future__ import annotations

import numpy as np

from ppl import support
from ppl._errors import PPLError, user_source
from ppl.distributions.constructor import constructor, parameters
from ppl.family import Family, Parameter

_SCALE = ("scale_matrix", "rate_matrix", "scale_tril")
_COVARIANCE = ("covariance_matrix", "precision_matrix", "scale_tril")


def _two_or_three(family: Family, given) -> Family:
    num = np.shape(given["concentration"])[-1:]
    if num and num[0] not in (2, 3):
        raise PPLError(
            "The density of `projected_normal` is known in 2 or 3 dimensions.",
            where=user_source(),
            got=f"a concentration of {num[0]} components",
            remedy="normalise a `multivariate_normal` instead, and keep its own value as the choice",
        )
    return family


def _at_least_two(family: Family, given) -> Family:
    if given["dimension"] < 2 or given["sample_method"] not in ("onion", "cvine"):
        raise PPLError(
            "`lkj_cholesky` takes a dimension of at least 2, and the method `onion` or `cvine`.",
            where=user_source(),
            got=f"dimension={given['dimension']}, sample_method={given['sample_method']!r}",
            remedy="the correlation matrix of one variable is 1: leave the choice out",
        )
    return family


# --- Vectors -----------------------------------------------------------------------------------------------------

dirichlet = constructor(
    Family("dirichlet", "Dirichlet", (Parameter("concentration", 1),), support.simplex, event_ndim=1, implicit=True),
    "p(x) proportional to prod_k x_k**(concentration_k - 1)",
)
multivariate_normal = constructor(
    Family(
        "multivariate_normal",
        "MultivariateNormal",
        (Parameter("loc", 1), *(Parameter(name, 2) for name in _COVARIANCE)),
        support.real_vector,
        event_ndim=1,
        alternatives=_COVARIANCE,
    ),
    "p(x) = exp(-(x - loc)' C**-1 (x - loc) / 2) / sqrt(det(2 pi C))",
)
low_rank_multivariate_normal = constructor(
    Family(
        "low_rank_multivariate_normal",
        "LowRankMultivariateNormal",
        (Parameter("loc", 1), Parameter("cov_factor", 2, axes=("n", "r")), Parameter("cov_diag", 1)),
        support.real_vector,
        event_ndim=1,
    ),
    "multivariate_normal with the covariance cov_factor cov_factor' + diag(cov_diag)",
)
multivariate_student_t = constructor(
    Family(
        "multivariate_student_t",
        "MultivariateStudentT",
        (Parameter("df"), Parameter("loc", 1), Parameter("scale_tril", 2)),
        support.real_vector,
        event_ndim=1,
        implicit=True,
    ),
    "p(x) proportional to (1 + |L**-1 (x - loc)|**2 / df)**(-(df + n) / 2), L = scale_tril",
)
gaussian_random_walk = constructor(
    Family(
        "gaussian_random_walk",
        "GaussianRandomWalk",
        (*parameters(scale=1.0), Parameter("num_steps", default=1, static=True)),
        support.real_vector,
        event_ndim=1,
        axes=("num_steps",),
    ),
    "x_t = x_(t-1) + scale e_t, e_t standard normal, x_0 = 0, for num_steps steps",
)
projected_normal = constructor(
    Family(
        "projected_normal",
        "ProjectedNormal",
        (Parameter("concentration", 1),),
        support.sphere,
        event_ndim=1,
        variant=_two_or_three,
    ),
    "x = y / |y|, y normal around concentration with unit covariance; the density is known in 2 and 3 dimensions",
)

# --- Matrices ----------------------------------------------------------------------------------------------------

matrix_normal = constructor(
    Family(
        "matrix_normal",
        "MatrixNormal",
        (
            Parameter("loc", 2, axes=("n", "p")),
            Parameter("scale_tril_row", 2, axes=("n", "n")),
            Parameter("scale_tril_column", 2, axes=("p", "p")),
        ),
        support.real_matrix,
        event_ndim=2,
        axes=("n", "p"),
    ),
    "x = loc + A e B', e of independent standard normals, A = scale_tril_row, B = scale_tril_column",
)
lkj_cholesky = constructor(
    Family(
        "lkj_cholesky",
        "LKJCholesky",
        (
            Parameter("dimension", static=True),
            *parameters(concentration=1.0),
            Parameter("sample_method", default="onion", static=True),
        ),
        support.corr_cholesky,
        event_ndim=2,
        axes=("dimension", "dimension"),
        implicit=True,
        variant=_at_least_two,
    ),
    "the Cholesky factor of a correlation matrix R with p(R) proportional to det(R)**(concentration - 1)",
)
wishart = constructor(
    Family(
        "wishart",
        "Wishart",
        (Parameter("concentration"), *(Parameter(name, 2) for name in _SCALE)),
        support.positive_definite,
        event_ndim=2,
        alternatives=_SCALE,
        implicit=True,
    ),
    "p(x) proportional to det(x)**((concentration - n - 1) / 2) exp(-tr(S**-1 x) / 2), S = scale_matrix",
)
wishart_cholesky = constructor(
    Family(
        "wishart_cholesky",
        "WishartCholesky",
        (Parameter("concentration"), *(Parameter(name, 2) for name in _SCALE)),
        support.lower_cholesky,
        event_ndim=2,
        alternatives=_SCALE,
        implicit=True,
    ),
    "the Cholesky factor of a matrix from the Wishart distribution",
)
