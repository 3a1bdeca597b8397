//! Combines parts into a [`Composite`] and checks that they fit.

use std::collections::BTreeSet;

use mim_core::augment::{Sample, ViewPlan};
use mim_core::params::{Ema, ParamStore};
use mim_core::rng::stream;
use mim_core::schedule::Schedule;
use mim_core::{
    Decoder, Encoder, Error, ImageSize, Input, Method, Norm, Objective, Purpose, Result,
};
use mim_masking::GuideKind;
use mim_targets::TargetGenerator;

use super::{Bootstrap, Branch, Composite};

/// Parts of a [`Composite`]; [`CompositeBuilder::build`] checks and combines them.
#[derive(Debug)]
#[must_use]
pub struct CompositeBuilder(pub(super) Composite);

impl CompositeBuilder {
    /// Image size and normalisation of the encoder, and how images become views. Default: 224 pixels, ImageNet's
    /// normalisation, and one view that is the unchanged image.
    pub fn input(mut self, size: impl Into<ImageSize>, norm: Norm, views: ViewPlan) -> Self {
        self.0.input = Input {
            size: size.into(),
            norm,
        };
        self.0.views = vec![(0, views.with_channels(self.0.input.channels()))];
        self
    }

    /// Uses `views` from `epoch` on instead of those of [`CompositeBuilder::input`]; their images may have another size
    /// (FastMIM-P). Evaluations keep the size of the input.
    pub fn views_from(mut self, epoch: usize, views: ViewPlan) -> Self {
        let views = views.with_channels(self.0.input.channels());
        self.0.views.push((epoch, views));
        self
    }

    /// Draws masks and computes targets on a grid whose cells have `pixels` pixels a side, for cells finer than the
    /// encoder's output (Swin). Default: the encoder's grid.
    ///
    /// The encoder must accept such masks, and decoders must split their predictions
    /// ([`mim_core::Prediction::regroup`]).
    pub fn mask_stride(mut self, pixels: usize) -> Self {
        self.0.mask_stride = Some(pixels);
        self
    }

    /// How many images one image counts as when the learning rate follows the batch size. Default 1.
    pub fn batch_factor(mut self, factor: f64) -> Self {
        self.0.batch_factor = factor;
        self
    }

    /// Adds a target under a name.
    pub fn target(
        mut self,
        name: impl Into<String>,
        target: impl TargetGenerator + 'static,
    ) -> Self {
        self.0.targets.push((name.into(), Box::new(target)));
        self
    }

    /// Adds a branch, which compares `decoder`'s prediction with the target named `target`.
    pub fn branch(
        mut self,
        (name, target): (&str, &str),
        decoder: impl Decoder + 'static,
        objective: impl Objective + 'static,
        weight: Schedule,
    ) -> Self {
        self.0.branches.push(Branch {
            name: name.to_owned(),
            target: target.to_owned(),
            decoder: Box::new(decoder),
            objective: Box::new(objective),
            weight,
        });
        self
    }

    /// Adds a line to the reports of a run ([`mim_core::Method::notes`]).
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.0.notes.push(text.into());
        self
    }

    /// Adds a momentum teacher. Its store is saved, and `ema` updates it.
    pub fn teacher(mut self, name: impl Into<String>, store: &ParamStore, ema: Ema) -> Self {
        self.0.stores.push((name.into(), store.clone()));
        self.0.emas.push(ema);
        self
    }

    /// Evaluates another encoder instead of the student's, as the authors do: the one in the teacher's store `name`.
    pub fn evaluated(mut self, name: impl Into<String>, encoder: impl Encoder + 'static) -> Self {
        self.0.evaluated = Some((name.into(), Box::new(encoder)));
        self
    }

    /// Trains in stages, where the student of one stage is the teacher of the next; the teacher's store is saved.
    pub(crate) fn bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        let teacher = bootstrap.teacher.clone();
        self.0.stores.push(("teacher".to_owned(), teacher));
        self.0.bootstrap = Some(bootstrap);
        self
    }

    /// Builds the method.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there is no branch, a name is used twice, a branch names a missing target, a target
    /// is not used, or a masker that follows attention does not have exactly one guiding target; [`Error::Shape`] if a
    /// view does not have the size that a target needs.
    pub fn build(self) -> Result<Composite> {
        let composite = self.0;
        if composite.branches.is_empty() {
            let fix = "add one by CompositeBuilder::branch";
            return Err(wrong(
                &composite,
                "branches",
                "0",
                "a method needs at least one branch",
                fix,
            ));
        }
        let stores = composite.stores.iter().map(|(name, _)| name);
        once(&composite, "store", stores)?;
        let targets = composite.targets.iter().map(|(name, _)| name);
        once(&composite, "target", targets)?;
        let branches = composite.branches.iter().map(|branch| &branch.name);
        once(&composite, "branch", branches)?;
        for branch in &composite.branches {
            if !composite
                .targets
                .iter()
                .any(|(name, _)| *name == branch.target)
            {
                return Err(no_target(&composite, branch));
            }
        }
        check_guide(&composite)?;
        check_targets(&composite)?;
        let guide = composite.masker.guide();
        for (name, target) in &composite.targets {
            let predicted = composite
                .branches
                .iter()
                .any(|branch| branch.target == *name);
            let guides = match guide {
                GuideKind::None => false,
                GuideKind::Scores => target.has_attention(),
                GuideKind::Parts => target.has_parts(),
            };
            if !predicted && !guides {
                let why = "no branch predicts it, and it does not guide the masker";
                let fix = "add a branch for it, or remove it";
                return Err(wrong(&composite, "target", name, why, fix));
            }
        }
        Ok(composite)
    }
}

/// Checks that exactly one target guides the masker if it follows attention.
pub(super) fn check_guide(composite: &Composite) -> Result<()> {
    if composite.masker.guide() != GuideKind::Scores {
        return Ok(());
    }
    let targets = composite.targets.iter();
    let guides: Vec<&str> = targets
        .filter(|(_, target)| target.has_attention())
        .map(|(name, _)| name.as_str())
        .collect();
    if guides.len() == 1 {
        return Ok(());
    }
    let why = "this masker needs the attention of exactly one target";
    let fix = "give one target attention (FeatureTargetConfig::attention), or choose a masker without a guide";
    let value = match guides.len() {
        0 => "without a guide".to_owned(),
        _ => format!("guided by {}", guides.join(" and ")),
    };
    Err(wrong(composite, "masker", value, why, fix))
}

/// Checks that the views of the first epoch suit the targets. Views with another size than the method's images cannot
/// be checked here.
fn check_targets(composite: &Composite) -> Result<()> {
    let size = (composite.input.size.height, composite.input.size.width);
    let plan = composite.views(0);
    if plan.is_of_points() {
        return Ok(());
    }
    let mut rng = stream(0, Purpose::Augment, [0, 0]);
    let Ok(views) = plan.apply(plan.blank(size)?, &mut rng) else {
        return Ok(());
    };
    let sizes: Vec<_> = views.iter().map(Sample::size).collect();
    let Some(Ok(grid)) = sizes.first().map(|&first| composite.mask_grid(first)) else {
        return Ok(());
    };
    let mut targets = composite.targets.iter();
    targets.try_for_each(|(_, target)| target.check(grid, &sizes))
}

/// The error of a branch whose target is missing.
pub(super) fn no_target(composite: &Composite, branch: &Branch) -> Error {
    let names: Vec<&str> = composite
        .targets
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let why = format!("its target `{}` is missing", branch.target);
    let fix = format!("add that target, or use one of: {}", names.join(", "));
    wrong(composite, "branch", &branch.name, why, fix)
}

fn once<'a>(
    composite: &Composite,
    kind: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let why = "the name is used twice";
            return Err(wrong(
                composite,
                kind,
                name,
                why,
                "give each a different name",
            ));
        }
    }
    Ok(())
}

fn wrong(
    composite: &Composite,
    field: &'static str,
    value: impl std::fmt::Display,
    why: impl Into<mim_core::Text>,
    fix: impl Into<mim_core::Text>,
) -> Error {
    Error::config(composite.name.clone(), field, value, why, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MaskMode;
    use mim_core::decoders::LinearDecoder;
    use mim_core::encoders::{Vit, VitConfig};
    use mim_core::objectives::RegressionConfig;
    use mim_masking::{AttentionMaskerConfig, Masker, RandomMaskerConfig};
    use mim_targets::{FeatureTarget, FeatureTargetConfig, PixelTargetConfig};

    fn random() -> Box<dyn Masker> {
        Box::new(RandomMaskerConfig::default().build().unwrap())
    }

    fn parts(masker: Box<dyn Masker>) -> CompositeBuilder {
        let vit = VitConfig::small();
        let encoder = Vit::new(&ParamStore::cpu(0).root(), &vit).unwrap();
        Composite::builder(
            "parts",
            &ParamStore::cpu(0),
            encoder,
            masker,
            MaskMode::Drop,
        )
    }

    fn with_target(parts: CompositeBuilder, name: &str) -> CompositeBuilder {
        parts.target(name, PixelTargetConfig::default().build().unwrap())
    }

    fn with_branch(parts: CompositeBuilder, name: &str, target: &str) -> CompositeBuilder {
        let decoder = LinearDecoder::new(&ParamStore::cpu(0).root(), 64, 48).unwrap();
        let loss = RegressionConfig::default().build().unwrap();
        parts.branch((name, target), decoder, loss, Schedule::constant(1.))
    }

    fn with_guide(parts: CompositeBuilder, name: &str) -> CompositeBuilder {
        let teacher = Vit::new(&ParamStore::cpu(0).root(), &VitConfig::small()).unwrap();
        let config = FeatureTargetConfig {
            attention: true,
            ..FeatureTargetConfig::default()
        };
        parts.target(name, FeatureTarget::new(teacher, config).unwrap())
    }

    #[test]
    fn build_refuses_parts_that_do_not_fit() {
        let guided = || Box::new(AttentionMaskerConfig::default().build().unwrap());
        let pixels = |masker| with_branch(with_target(parts(masker), "pixels"), "pixel", "pixels");
        let cases = [
            (
                with_target(parts(random()), "pixels"),
                "at least one branch",
            ),
            (with_target(pixels(random()), "pixels"), "used twice"),
            (
                with_branch(pixels(random()), "pixel", "pixels"),
                "used twice",
            ),
            (
                with_branch(pixels(random()), "hog", "hogs"),
                "its target `hogs` is missing; add that target, or use one of: pixels",
            ),
            (
                with_target(pixels(random()), "more"),
                "no branch predicts it",
            ),
            (pixels(guided()), "`masker` is without a guide"),
            (
                with_guide(with_guide(pixels(guided()), "a"), "b"),
                "`masker` is guided by a and b",
            ),
        ];
        for (parts, wanted) in cases {
            let error = parts.build().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(pixels(random()).build().is_ok());
        let joined = with_guide(pixels(guided()), "a").build().unwrap();
        assert!(joined.with_masker(random()).is_ok());
        let plain = pixels(random()).build().unwrap();
        assert!(plain.with_masker(guided()).is_err());
    }
}
