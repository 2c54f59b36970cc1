"""The ATen ops that training steps of 131 text models of transformers 5.23 call on floating tensors, most frequent first."""

CALLED_BY_MODELS = """
    clone.default add.Tensor ones_like.default expand.default _softmax.default t.default mul.Tensor bmm.default
    transpose.int _to_copy.default view.default sum.dim_IntList detach.default _softmax_backward_data.default
    _unsafe_view.default unsqueeze.default mm.default slice.Tensor cat.default neg.default slice_backward.default
    embedding_dense_backward.default where.self embedding.default scalar_tensor.default zeros.default
    pow.Tensor_Scalar mul.Scalar squeeze.dim mean.dim div.Scalar sin.default cos.default rsqrt.default
    silu_backward.default silu.default alias.default _log_softmax.default nll_loss_backward.default
    _log_softmax_backward_data.default nll_loss_forward.default select.int div.Tensor split.Tensor
    select_backward.default zeros_like.default index_put.default new_zeros.default index.Tensor topk.default
    index_select.default index_add_.default sigmoid.default sigmoid_backward.default gather.default
    scatter_add.default split_with_sizes.default sub.Tensor div_.Tensor masked_fill.Scalar sum.default copy_.default
    scatter.src new_empty_strided.default as_strided.default scatter_.value exp.default stack.default
    new_empty.default relu.default gelu.default gelu_backward.default addmm.default native_layer_norm.default
    convolution_backward.default convolution.default softplus_backward.default softplus.default clamp.default
    ge.Scalar constant_pad_nd.default flip.default cumsum.default le.Scalar threshold_backward.default tanh.default
    tanh_backward.default native_layer_norm_backward.default sqrt.default log.default mul_.Tensor
    linalg_solve_triangular.default tril.default gt.Scalar masked_fill_.Scalar max.dim unbind.int permute.default
    eq.Scalar eye.default lift_fresh.default repeat.default add_.Tensor logsumexp.default index_put_.default
    floor.default eq.Tensor log1p.default polar.default _conj.default view_as_complex.default view_as_real.default
    squeeze.default reciprocal.default linalg_vector_norm.default add.Scalar minimum.default expm1.default gt.Tensor
    new_full.default ne.Scalar std.correction clamp_.default erfinv.default nan_to_num.default full.default
    masked_scatter.default masked_scatter_backward.default _scaled_dot_product_flash_attention_for_cpu.default
    unfold.default _scaled_dot_product_flash_attention_for_cpu_backward.default unfold_backward.default
    log_sigmoid_forward.default log_sigmoid_backward.default full_like.default scatter_.src clamp_min.default
    rand_like.default scatter.value arange.start_step clamp.Tensor empty_like.default scatter_add_.default
    uniform_.default abs.default pow.Scalar exponential_.default
""".split()
