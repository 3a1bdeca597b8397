//! Momentum teachers.

use super::ParamStore;
use crate::schedule::Schedule;
use crate::{Error, Result, StepContext, ops};
use candle_core::Tensor;

/// When a teacher is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmaTiming {
    /// Before the forward pass of each step (SIM).
    BeforeStep,
    /// After each optimizer step (most methods).
    AfterStep,
    /// After each epoch (SdAE).
    EndOfEpoch,
}

/// Initial values of a teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmaStart {
    /// Copies the student's initial values.
    Copy,
    /// Keeps the teacher's own values.
    Keep,
}

/// `teacher = m * teacher + (1 - m) * student` over parameters of equal name.
///
/// Frozen parameters are included, buffers are not: a teacher has its own batch-norm statistics.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mim_core::nn::Linear;
/// use mim_core::params::{Ema, EmaStart, EmaTiming, Init, ParamStore};
/// use mim_core::{Schedule, StepContext};
///
/// // The same constructor on two stores.
/// let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(8));
/// let teacher = ParamStore::teacher(&Device::Cpu);
/// for store in [&student, &teacher] {
///     Linear::new(&store.root(), 8, 2)?;
/// }
/// let momentum = Schedule::constant(0.9);
/// let ema = Ema::new(&student, &teacher, momentum, EmaTiming::AfterStep, EmaStart::Copy)?;
///
/// // A step moves the student from 0 to 1; the teacher follows by a tenth.
/// let bias = |store: &ParamStore| store.var("bias").expect("a linear layer has one");
/// bias(&student).set(&Tensor::ones(2, candle_core::DType::F32, &Device::Cpu)?)?;
/// ema.update(EmaTiming::AfterStep, &StepContext::new(0))?;
/// let followed = bias(&teacher).to_vec1::<f32>()?;
/// assert!(followed.iter().all(|value| (value - 0.1).abs() < 1e-6));
/// # Ok::<(), mim_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ema {
    student: ParamStore,
    teacher: ParamStore,
    momentum: Schedule,
    when: EmaTiming,
}

impl Ema {
    /// Connects `teacher` and `student`; both networks must be built already.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the teacher has a parameter that the student lacks.
    pub fn new(
        student: &ParamStore,
        teacher: &ParamStore,
        momentum: Schedule,
        when: EmaTiming,
        start: EmaStart,
    ) -> Result<Self> {
        for (name, _) in teacher.parameters() {
            if student.var(&name).is_none() {
                return Err(Error::unsupported(
                    format!("a momentum teacher with the parameter `{name}`"),
                    "the student has no parameter of that name",
                    "build the teacher with the student's own constructor",
                ));
            }
        }
        Self::of_common(student, teacher, momentum, when, start)
    }

    /// As [`Ema::new`], but parameters that the student lacks are allowed and stay unchanged.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn of_common(
        student: &ParamStore,
        teacher: &ParamStore,
        momentum: Schedule,
        when: EmaTiming,
        start: EmaStart,
    ) -> Result<Self> {
        if start == EmaStart::Copy {
            teacher.copy_from(student)?;
        }
        Ok(Self {
            student: student.clone(),
            teacher: teacher.clone(),
            momentum,
            when,
        })
    }

    /// Updates the teacher if `now` is its timing.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn update(&self, now: EmaTiming, step: &StepContext) -> Result<()> {
        if now != self.when {
            return Ok(());
        }
        let momentum = self.momentum.at(step);
        let teachers = self.teacher.parameters().into_iter();
        let pairs: Vec<_> = teachers
            .filter_map(|(name, teacher)| Some((teacher, self.student.var(&name)?)))
            .collect();
        let pairs: Vec<(&Tensor, &Tensor)> = pairs
            .iter()
            .map(|(teacher, student)| (teacher.as_tensor(), student.as_tensor()))
            .collect();
        Ok(ops::ema_updates(&pairs, momentum)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn teachers_move_towards_their_student() {
        let (student, teacher) = (ParamStore::cpu(0), ParamStore::teacher(&Device::Cpu));
        student.root().weight(&[2], "bias").unwrap();
        let seen = teacher.root().weight(&[2], "bias").unwrap();
        let momentum = Schedule::constant(0.75);
        let ema = Ema::new(
            &student,
            &teacher,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )
        .unwrap();
        student
            .var("bias")
            .unwrap()
            .set(&Tensor::new(&[4f32, -8.], &Device::Cpu).unwrap())
            .unwrap();
        let step = StepContext::new(0);
        ema.update(EmaTiming::BeforeStep, &step).unwrap();
        assert_eq!(seen.to_vec1::<f32>().unwrap(), [0., 0.]);
        ema.update(EmaTiming::AfterStep, &step).unwrap();
        assert_eq!(seen.to_vec1::<f32>().unwrap(), [1., -2.]);
    }

    #[test]
    fn refuses_a_teacher_of_another_architecture() {
        let (student, teacher) = (ParamStore::cpu(0), ParamStore::teacher(&Device::Cpu));
        teacher.root().weight(&[2], "bias").unwrap();
        let made = Ema::new(
            &student,
            &teacher,
            Schedule::constant(0.5),
            EmaTiming::AfterStep,
            EmaStart::Keep,
        );
        assert!(made.unwrap_err().to_string().contains("`bias`"));
    }
}
