use candle_core::Device;
use mim_core::StepContext;
use mim_core::augment::ViewPlan;
use mim_core::nn::Linear;
use mim_core::params::{Init, ParamStore};
use mim_core::{Batch, Encoder, Error, Input, LossTerms, Mask, Method, Norm, Result};

/// Rebuilds grey images of 28 pixels from 16 numbers.
pub struct Bottleneck {
    input: Input,
    student: ParamStore,
    down: Linear,
    up: Linear,
}

impl Bottleneck {
    pub fn new(seed: u64) -> Result<Self> {
        let student = ParamStore::new(&Device::Cpu, seed, Init::Mae.build(28 * 28));
        let root = student.root();
        Ok(Self {
            input: Input {
                size: 28.into(),
                norm: Norm::uniform(0., 1., 1),
            },
            down: Linear::new(&root.pp("down"), 28 * 28, 16)?,
            up: Linear::new(&root.pp("up"), 16, 28 * 28)?,
            student,
        })
    }
}

impl Method for Bottleneck {
    fn name(&self) -> &str {
        "bottleneck"
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        ViewPlan::default() // one view: the image as it is
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        vec![("student", &self.student)]
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }

    fn forward(&self, batch: &Batch, _step: &StepContext) -> Result<LossTerms> {
        let pixels = batch
            .view(0)?
            .normalized(&self.input.norm)?
            .flatten_from(1)?;
        let rebuilt = self.up.forward(&self.down.forward(&pixels)?)?;
        LossTerms::single("pixels", (rebuilt - pixels)?.sqr()?.mean_all()?)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        let (why, fix) = ("it sees whole images", "use a method with a masker");
        Err(Error::unsupported("masking", why, fix))
    }
}
