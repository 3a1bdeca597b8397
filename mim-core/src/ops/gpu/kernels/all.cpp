// Every kernel in one translation unit, for machines without a GPU: see emulate.h. Names outside of
// functions are therefore shared by all files.
#include "emulate.cpp"
#include "attention_forward.cu"
#include "attention_queries_backward.cu"
#include "attention_keys_backward.cu"
#include "adamw.cu"
#include "ema_update.cu"
#include "scale_inplace.cu"
#include "sum_squares.cu"
