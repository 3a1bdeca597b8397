// Every kernel in one translation unit, for machines without a GPU: see emulate.h. Names outside of
// functions are therefore shared by all files.
#include "emulate.cpp"

#include "attention_forward.cu"
#include "attention_keys_backward.cu"
#include "attention_queries_backward.cu"
#include "gather_rows.cu"
#include "gelu.cu"
#include "layer_norm.cu"
#include "rows.cu"
#include "softmax.cu"
