//! The f32 kernel of the moving average.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::partition::rows_per_task;
use crate::simd::multiversion;

multiversion! {
    fn update(teacher: &mut [f32], student: &[f32], keep: f32, rest: f32) {
        for (t, s) in teacher.iter_mut().zip(student) {
            *t = *t * keep + s * rest;
        }
    }
}

/// `teacher = keep * teacher + rest * student`.
pub(super) fn ema_update(teacher: &mut [f32], student: &[f32], keep: f32, rest: f32) {
    let task = rows_per_task(1);
    teacher
        .par_chunks_mut(task)
        .zip(student.par_chunks(task))
        .for_each(|(teacher, student)| update(teacher, student, keep, rest));
}
