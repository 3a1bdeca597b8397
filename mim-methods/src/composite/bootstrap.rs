//! Training in stages: the student of one stage is the teacher of the next.

use std::collections::BTreeSet;
use std::fmt;

use mim_core::params::{InitScheme, ParamStore};
use mim_core::schedule::stage_of;
use mim_core::{Result, StepContext};

/// A frozen teacher that becomes a copy of the student at the end of each stage, after which the student is initialised
/// again.
///
/// The optimizer's state is kept. Each initialisation draws the same values from the same seed, so a run can resume in
/// any stage.
pub(crate) struct Bootstrap {
    /// First epochs of the stages, ascending from 0.
    pub(crate) starts: Vec<usize>,
    pub(crate) student: ParamStore,
    pub(crate) teacher: ParamStore,
    /// Initialisation of the student at each stage.
    pub(crate) init: Box<dyn InitScheme>,
    /// Suffixes of the names of trained parameters that keep their values.
    pub(crate) kept: &'static [&'static str],
}

impl Bootstrap {
    /// Starts the next stage if one begins after this epoch.
    pub(super) fn end_epoch(&self, step: &StepContext) -> Result<()> {
        let next = step.epoch + 1;
        let seed = self.student.seed();
        let (true, Some(seed)) = (next < step.epochs && self.starts[1..].contains(&next), seed)
        else {
            return Ok(());
        };
        self.teacher.copy_from(&self.student)?;
        let trained = self.student.trainable().into_iter();
        let again: BTreeSet<String> = trained
            .map(|(name, _)| name)
            .filter(|name| !self.kept.iter().any(|end| name.ends_with(end)))
            .collect();
        let scope = format!("stage{}", stage_of(&self.starts, next));
        let which = |name: &str| again.contains(name);
        self.student
            .redraw(self.init.as_ref(), (seed, &scope), which)
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("starts", &self.starts)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}
