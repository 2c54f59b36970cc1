"""What an op of the database may be besides a rational function of its operands, and how it is then judged."""

# Chooses by order: judged by running PyTorch's own op on the operands' places in the keyed order.
SELECTIONS = frozenset(
    [
        "aminmax",
        "amax",
        "amin",
        "argmax",
        "argmin",
        "argsort",
        "bucketize",
        "cummax",
        "cummin",
        "fmax",
        "fmin",
        "ge",
        "gt",
        "index_reduce.amax",
        "index_reduce.amin",
        "kthvalue",
        "le",
        "lt",
        "max.binary",
        "max.reduction_no_dim",
        "max.reduction_with_dim",
        "maximum",
        "median",
        "min.binary",
        "min.reduction_no_dim",
        "min.reduction_with_dim",
        "minimum",
        "mode",
        "msort",
        "nanmedian",
        "nn.functional.adaptive_max_pool1d",
        "nn.functional.adaptive_max_pool2d",
        "nn.functional.adaptive_max_pool3d",
        "nn.functional.max_pool1d",
        "nn.functional.max_pool2d",
        "nn.functional.max_pool3d",
        "scatter_reduce.amax",
        "scatter_reduce.amin",
        "searchsorted",
        "sort",
        "topk",
    ]
)

# Made of an oracle: not a rational function. Judged by what every function owes: the same numbers give the same digits
# in every layout, shapes and dtypes are PyTorch's, the backward is linear; and by the tests in tests/exact/rules.
ORACLES = {
    name: kind
    for kind, names in {
        "a piecewise function": """
            abs clamp_max clamp_min copysign dist heaviside isclose linalg.norm nextafter
            max_pool2d_with_indices_backward
            nn.functional.celu nn.functional.cosine_embedding_loss nn.functional.elu nn.functional.hardshrink
            nn.functional.hardsigmoid nn.functional.hardswish nn.functional.hardtanh nn.functional.hinge_embedding_loss
            nn.functional.huber_loss nn.functional.l1_loss nn.functional.leaky_relu nn.functional.margin_ranking_loss
            nn.functional.multi_margin_loss nn.functional.multilabel_margin_loss nn.functional.prelu nn.functional.relu
            nn.functional.relu6 nn.functional.rrelu nn.functional.selu nn.functional.smooth_l1_loss
            nn.functional.softshrink nn.functional.softsign nn.functional.threshold nn.functional.triplet_margin_loss
            nn.functional.triplet_margin_with_distance_loss renorm sgn sign clamp linalg.matrix_norm norm.inf
            nn.functional.local_response_norm
        """,
        "rounding": """
            __rmod__ ceil div.floor_rounding div.trunc_rounding floor floor_divide fmod frac remainder round
            round.decimals_0 round.decimals_3 round.decimals_neg_3 trunc
        """,
        "exp and log": """
            cosh exp exp2 expm1 float_power ldexp log log10 log1p log2 log_softmax log_softmax.with_dtype logaddexp
            logaddexp2 logcumsumexp logit logsumexp masked.log_softmax masked.logaddexp masked.logsumexp masked.softmax
            masked.softmin nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits
            nn.functional.cross_entropy nn.functional.glu nn.functional.kl_div nn.functional.linear_cross_entropy
            nn.functional.linear_cross_entropy.chunked nn.functional.logsigmoid nn.functional.mish
            nn.functional.multi_head_attention_forward nn.functional.multilabel_soft_margin_loss
            nn.functional.poisson_nll_loss nn.functional.scaled_dot_product_attention nn.functional.silu
            nn.functional.soft_margin_loss nn.functional.softmin nn.functional.softmin.with_dtype nn.functional.softplus
            nn.functional.tanhshrink pow sigmoid sinh softmax softmax.with_dtype special.entr special.xlog1py tanh xlogy
            nn.functional.linear_cross_entropy.chunked_none torch.ops.aten._safe_softmax.default
            nn.functional.gaussian_nll_loss
        """,
        "a square root": """
            _native_batch_norm_legit cdist corrcoef hypot linalg.vector_norm masked.norm masked.normalize masked.std
            native_batch_norm native_group_norm native_layer_norm nn.functional.batch_norm
            nn.functional.batch_norm.without_cudnn nn.functional.cosine_similarity nn.functional.group_norm
            nn.functional.instance_norm nn.functional.layer_norm nn.functional.normalize
            nn.functional.pairwise_distance nn.functional.pdist nn.functional.rms_norm norm norm.fro rsqrt sqrt std
            std.unbiased std_mean std_mean.unbiased linalg.norm.subgradients_at_zero
        """,
        "a special function": """
            acos acosh asin asinh atan atan2 atanh cos digamma erf erfc erfinv i0 igamma igammac lgamma
            mvlgamma.mvlgamma_p_1 mvlgamma.mvlgamma_p_3 mvlgamma.mvlgamma_p_5 nn.functional.gelu polygamma.polygamma_n_0
            polygamma.polygamma_n_1 polygamma.polygamma_n_2 polygamma.polygamma_n_3 polygamma.polygamma_n_4 sin sinc
            special.airy_ai special.bessel_j0 special.bessel_j1 special.bessel_y0 special.bessel_y1
            special.chebyshev_polynomial_t special.chebyshev_polynomial_u special.chebyshev_polynomial_v
            special.chebyshev_polynomial_w special.erfcx special.hermite_polynomial_h special.hermite_polynomial_he
            special.i0e special.i1 special.i1e special.laguerre_polynomial_l special.legendre_polynomial_p
            special.log_ndtr special.modified_bessel_i0 special.modified_bessel_i1 special.modified_bessel_k0
            special.modified_bessel_k1 special.ndtr special.ndtri special.polygamma.special_polygamma_n_0
            special.scaled_modified_bessel_k0 special.scaled_modified_bessel_k1 special.shifted_chebyshev_polynomial_t
            special.shifted_chebyshev_polynomial_u special.shifted_chebyshev_polynomial_v
            special.shifted_chebyshev_polynomial_w special.spherical_bessel_j0 special.zeta tan polar
        """,
        "a choice by order, then arithmetic": "quantile nanquantile masked.median",
        "a generic constant": """
            nn.functional.interpolate.bicubic
            deg2rad full_like logspace.tensor_overload new_full rad2deg
        """,
        # Rational: P, L and U multiply to the matrix, but the rows exchanged are not those that PyTorch would exchange.
        "a factorization by other pivots": "lu linalg.lu linalg.lu_factor linalg.lu_factor_ex",
        # Composites of inv and solve, of matrices whose determinants a float64 cannot show.
        "more digits than a float64 has": "linalg.tensorinv linalg.tensorsolve",
    }.items()
    for name in names.split()
}

# Casts keep float64, where residues are held.
CASTS = frozenset({"bfloat16", "float", "half", "cdouble", "cfloat", "chalf"})

# What they hold is not defined.
UNWRITTEN = frozenset({"empty_like", "new_empty", "new_empty_strided"})

# PyTorch checks values before it computes; a comparison of residues may then say no.
VALUE_CHECKS = frozenset({"cov", "nn.functional.gaussian_nll_loss"})

# Quotients of large determinants: given small whole numbers, so that a float64 can show the result.
SMALL_NUMBERS = frozenset(["linalg.inv", "linalg.inv_ex", "linalg.solve", "linalg.solve_ex", "prod", "__rdiv__"])
