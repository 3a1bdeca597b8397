//! The f32 kernel of scaling.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::partition::rows_per_task;
use crate::simd::multiversion;

multiversion! {
    fn block(xs: &mut [f32], factor: f32) {
        for x in xs {
            *x *= factor;
        }
    }
}

/// `xs *= factor`.
pub(super) fn scale(xs: &mut [f32], factor: f32) {
    xs.par_chunks_mut(rows_per_task(1))
        .for_each(|xs| block(xs, factor));
}
