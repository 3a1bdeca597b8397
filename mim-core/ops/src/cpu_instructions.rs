//! Which instructions the kernels use here.

/// The widest set of instructions that the kernels use on this machine: `amx`, `avx512_bf16`, `avx512`, `avx2`, or
/// `portable` where the compiler's choice is all there is.
///
/// `MIM_CPU` may hold them to less than the machine has. The crate `gemm` looks by itself.
#[must_use]
pub fn cpu_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::{has_avx2, has_avx512, has_avx512_bf16};
        if crate::matmul::has_amx() {
            return "amx";
        }
        if has_avx512_bf16() {
            return "avx512_bf16";
        }
        if has_avx512() {
            return "avx512";
        }
        if has_avx2() {
            return "avx2";
        }
    }
    "portable"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_of_the_names_of_mim_cpu() {
        let names = ["amx", "avx512_bf16", "avx512", "avx2", "portable"];
        assert!(names.contains(&cpu_instructions()));
    }
}
