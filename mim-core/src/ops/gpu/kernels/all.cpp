// Every kernel in one translation unit, for machines without a GPU: see emulate.h. Names outside of
// functions are therefore shared by all files.
#include "emulate.cpp"

#include "adamw.cu"
#include "attention_forward.cu"
#include "attention_keys_backward.cu"
#include "attention_queries_backward.cu"
#include "batch_norm.cu"
#include "depthwise_conv.cu"
#include "ema_update.cu"
#include "gather_rows.cu"
#include "gelu.cu"
#include "hog.cu"
#include "layer_norm.cu"
#include "rows.cu"
#include "softmax.cu"
#include "sum_squares.cu"
#include "unfold.cu"
