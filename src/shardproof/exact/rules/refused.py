"""Why an op has no exact rule, where there is more to say than that nobody has written one."""

from __future__ import annotations

from typing import Final

_EIGENVALUES: Final = "eigenvalues and singular values are roots of polynomials, which may have none modulo a prime"
_ROOTS: Final = (
    "its factors are square roots of residues, stand-ins of which products would have to give the matrix back"
)
_FOURIER: Final = "roots of unity are cosines and sines, generic constants whose products with each other mean nothing"
_HISTOGRAM: Final = "it counts residues between limits, which is to read them as numbers"
_POSITIONS: Final = "its positions are residues, which are no indices"
_PSEUDOINVERSE: Final = "its rank and its result come of singular values"
_BITS: Final = "the bits of a floating number are not those of the real number that a residue stands for"
_LOGARITHM: Final = "the sign and the logarithm of a determinant's magnitude: a determinant has neither modulo a prime"
_SERIES: Final = "an infinite series, cut where the numbers are small"

# By the ATen op's name without its overload.
REASONS: Final[dict[str, str]] = {
    **dict.fromkeys(("_linalg_svd", "linalg_eig", "_linalg_eigh", "_linalg_eigvals", "linalg_eigvals"), _EIGENVALUES),
    **dict.fromkeys(("cholesky", "linalg_cholesky_ex", "cholesky_inverse", "cholesky_solve"), _ROOTS),
    **dict.fromkeys(("linalg_qr", "geqrf", "ormqr", "linalg_householder_product"), _ROOTS),
    **dict.fromkeys(("linalg_ldl_factor_ex", "linalg_ldl_solve"), "its pivots are chosen by magnitude"),
    **dict.fromkeys(("_fft_r2c", "_fft_c2c", "_fft_c2r"), _FOURIER),
    **dict.fromkeys(("histc", "histogram", "_histogramdd_bin_edges"), _HISTOGRAM),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), _POSITIONS),
    **dict.fromkeys(("linalg_pinv", "linalg_lstsq"), _PSEUDOINVERSE),
    **dict.fromkeys(("frexp", "signbit", "hash_tensor"), _BITS),
    "_linalg_slogdet": _LOGARITHM,
    "linalg_matrix_exp": _SERIES,
    "_to_sparse": "sparse layouts hold no residues",
    "angle": "the angle of a negative number is pi, of a positive one 0, and residues have no sign",
}


def find_reason(name: str) -> str | None:
    """Why the op is refused, by its name without its overload; None where there is no other reason than no rule."""
    return REASONS.get(name)
