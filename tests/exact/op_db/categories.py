class All:
    def __contains__(self, x): return True
ORACLES=All(); ROOTS={}; SELECTIONS={}
CASTS = {"bfloat16", "float", "half"}
UNWRITTEN = {"empty_like", "new_empty", "new_empty_strided"}
VALUE_CHECKS = {"cov", "nn.functional.gaussian_nll_loss"}
