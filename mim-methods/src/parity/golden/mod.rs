//! The golden cases of a method as data, and the one runner that reads it.
//!
//! A method declares whose names its weights have, how settings of a case map to ours, where masks come from, and which
//! trace each recorded output belongs to. Functions are only for what cannot be declared.

mod masks;
mod networks;
mod outputs;
mod settings;

use std::rc::Rc;

use candle_core::Device;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, PatchGrid, StepContext, View};

pub(crate) use masks::random_mask;
pub use masks::{Masks, agrees, same, unseen};
pub use networks::{BEIT_VIT, CLIP, HYBRID, SWIN};
pub(crate) use networks::{Known, frozen_vit, hybrid, positions};
pub use outputs::{Made, Output};
pub(crate) use settings::read;
pub use settings::{
    CONSTANT_MOMENTUM, Convert, MAE_DECODER, Plain, QKV_BIAS, Setting, VIT, constant, patches,
    positive,
};

use super::trajectory::{Curve, Features, Trajectory};
use super::{Case, Problem, Result, Rounding, Setup};
use crate::MethodConfig;

/// Recorded images: name without `input.`, and whether they are normalised or in `[0, 1]`.
#[derive(Debug, Clone, Copy)]
pub enum Pixels {
    /// Normalised, or bytes.
    Normalized(&'static str),
    /// In `[0, 1]`.
    Unit(&'static str),
}

/// Where the views of a case come from.
#[derive(Debug)]
pub enum Views<C: 'static> {
    /// One view, `input.images` or `input.image`.
    One,
    /// Several.
    Several(&'static [Pixels]),
    /// What the other variants cannot express.
    By(fn(&Case, &C, &Device) -> Result<Batch>),
}

/// Our values, by the names of recorded ones.
type Named<T> = Vec<(&'static str, T)>;

/// What the trajectory of a method needs in addition to its cases.
#[derive(Debug)]
pub struct Course<C: 'static> {
    /// Settings that a trajectory spells differently.
    pub also: fn(&Case, &mut C) -> Result<()>,
    /// Recorded curves (without `expect.`) other than `loss`, `grad_norm`, `lr` and `weight_decay`.
    pub(crate) curves: fn(&C) -> Named<Curve>,
    /// Recorded features (without `expect.`).
    pub(crate) features: fn(&C, &Device) -> Result<Named<Features>>,
    /// Names in snapshots that differ from the source's: (recorded, exported).
    pub renamed: &'static [(&'static str, &'static str)],
    /// Prefixes of names that our method lacks: parts of a teacher that are never run.
    pub absent: &'static [&'static str],
}

/// The golden cases of a method.
///
/// ```
/// use mim_methods::MaeConfig;
/// use mim_methods::parity::golden::{Golden, Output, Setting, VIT};
/// use mim_methods::registry::Entry;
///
/// const GOLDEN: Golden<MaeConfig> = Golden {
///     settings: &[VIT, Setting::Renamed("ratio", "mask_ratio")],
///     outputs: &[("features", Output::Trace("latent"))],
///     ..Golden::new("mae", |config| config.encoder.grid())
/// };
/// let entry = Entry {
///     parity: |case, device| GOLDEN.setup(case, device),
///     ..Entry::new::<MaeConfig>("mae_again")
/// };
/// ```
#[derive(Debug)]
pub struct Golden<C: 'static> {
    /// Whose names its weights have, if the case does not say.
    pub source: &'static str,
    /// The settings that a case changes.
    pub start: fn(&Case) -> Result<C>,
    /// How settings of a case map to ours.
    pub settings: &'static [Setting],
    /// Settings that do not map key by key.
    pub also: fn(&Case, &mut C) -> Result<()>,
    /// How the method is built: the case holds the weights of frozen networks.
    pub build: fn(&Case, &C, &Device) -> Result<Box<dyn Method>>,
    /// Where the views come from.
    pub views: Views<C>,
    /// The grid of the masks.
    pub grid: fn(&C) -> mim_core::Result<PatchGrid>,
    /// Where the masks come from.
    pub masks: Masks<C>,
    /// The position of a case's step in the run.
    pub step: fn(&Case, &C) -> Result<StepContext>,
    /// Checks recorded values that follow from settings and inputs; a case whose values differ from ours is refused.
    pub check: fn(&Made<C>) -> Result<()>,
    /// The trace of each recorded output (without `expect.`). `loss` and `grad_norm` need no entry. A name may have a
    /// `*`.
    pub outputs: &'static [(&'static str, Output<C>)],
    /// Gradients whose recorded values are only rounding errors.
    pub rounding: Rounding,
    /// What its trajectories need.
    pub course: Option<Course<C>>,
}

impl<C> Course<C> {
    /// These features, and only the curves of every method.
    pub(crate) const fn new(features: fn(&C, &Device) -> Result<Named<Features>>) -> Self {
        Self {
            also: |_, _| Ok(()),
            curves: |_| Vec::new(),
            features,
            renamed: &[],
            absent: &[],
        }
    }
}

impl<C: MethodConfig> Golden<C> {
    /// One normalised view and recorded masks on this grid, at the start of a run. Only loss, gradients and step are
    /// compared.
    pub const fn new(source: &'static str, grid: fn(&C) -> mim_core::Result<PatchGrid>) -> Self {
        Self {
            source,
            start: |_| Ok(C::default()),
            settings: &[],
            also: |_, _| Ok(()),
            build: |_, config, device| Ok(Box::new(config.build(&config.store(device, 0))?)),
            views: Views::One,
            grid,
            masks: Masks::Bits,
            step: |_, _| Ok(StepContext::new(0)),
            check: |_| Ok(()),
            outputs: &[],
            rounding: Rounding {
                zero: &[],
                magnified: &[],
            },
            course: None,
        }
    }

    /// Prepares a case.
    ///
    /// # Errors
    ///
    /// If a setting is not known, or its inputs do not fit its settings.
    pub fn setup(&'static self, case: &Case, device: &Device) -> Result<Setup> {
        let mut config = read(case, &(self.start)(case)?, self.settings)?;
        (self.also)(case, &mut config)?;
        let course = self.course_of(case)?;
        if let Some(course) = course {
            (course.also)(case, &mut config)?;
        }
        let mut method = (self.build)(case, &config, device)?;
        let name: Option<String> = case.setting("source_names")?;
        let source = Source::named(name.as_deref().unwrap_or(self.source))?;
        let step = (self.step)(case, &config)?;
        if let Some(course) = course {
            return Ok(Setup {
                rounding: self.rounding,
                method,
                source,
                step,
                batch: self.batch(&case.at_step(0)?, &config, device)?,
                outputs: vec![],
                trajectory: Some(self.trajectory(course, config, device)?),
            });
        }
        let batch = self.batch(case, &config, device)?;
        let mask = self.mask(case, &config)?;
        if let Some(mask) = &mask {
            method.override_mask(mask.clone())?;
        }
        let made = Made {
            case: case.clone(),
            config,
            mask,
            step: step.clone(),
            images: batch.len(),
            device: device.clone(),
        };
        (self.check)(&made)?;
        Ok(Setup {
            rounding: self.rounding,
            method,
            source,
            step,
            batch,
            outputs: self.found(made),
            trajectory: None,
        })
    }

    fn course_of(&'static self, case: &Case) -> Result<Option<&'static Course<C>>> {
        match (&self.course, case.kind()) {
            (Some(course), "trajectory") => Ok(Some(course)),
            (None, "trajectory") => {
                let what = format!("a trajectory of {}", case.method());
                Err(Problem::unknown(what))
            }
            _ => Ok(None),
        }
    }

    fn trajectory(
        &'static self,
        course: &Course<C>,
        config: C,
        device: &Device,
    ) -> Result<Trajectory> {
        Ok(Trajectory {
            curves: (course.curves)(&config),
            features: (course.features)(&config, device)?,
            renamed: course.renamed,
            absent: course.absent,
            inputs: Box::new(move |case, device| {
                let batch = self.batch(case, &config, device)?;
                let mask = self.mask(case, &config)?;
                let none = || Problem::unknown("a trajectory without masks");
                Ok((batch, mask.ok_or_else(none)?))
            }),
        })
    }

    fn batch(&self, case: &Case, config: &C, device: &Device) -> Result<Batch> {
        let named = |pixels: &Pixels| -> Result<View> {
            Ok(match pixels {
                Pixels::Normalized(name) => {
                    View::new(case.on(&format!("input.{name}"), device)?, vec![])?
                }
                Pixels::Unit(name) => {
                    View::of_unit(case.on(&format!("input.{name}"), device)?, vec![])?
                }
            })
        };
        let views = match &self.views {
            Views::One => {
                let one = case.tensor("input.image").is_some();
                let name = if one { "image" } else { "images" };
                vec![named(&Pixels::Normalized(name))?]
            }
            Views::Several(all) => all.iter().map(named).collect::<Result<_>>()?,
            Views::By(make) => return make(case, config, device),
        };
        Ok(several(views))
    }

    fn mask(&self, case: &Case, config: &C) -> Result<Option<Mask>> {
        self.masks.of(case, config, (self.grid)(config)?)
    }

    /// How to find each declared output.
    fn found(&'static self, made: Made<C>) -> Vec<(String, super::Extract)> {
        let made = Rc::new(made);
        let mut found = Vec::new();
        for (name, theirs) in made.case.group("expect.").iter() {
            let fits = |(pattern, output): &'static (&str, Output<C>)| {
                Some((outputs::part(pattern, name)?, output))
            };
            if let Some((part, output)) = self.outputs.iter().find_map(fits) {
                let extract = output.extract(&made, part, theirs.dtype());
                found.push((name.to_owned(), extract));
            }
        }
        found
    }
}

/// A batch of these views, at least one.
pub(crate) fn several(views: Vec<View>) -> Batch {
    Batch {
        views,
        indices: Vec::new(),
        labels: None,
        extras: std::collections::BTreeMap::new(),
    }
}
