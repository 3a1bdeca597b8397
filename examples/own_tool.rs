//! The whole program with custom parts: a masker, a target and a method, known to every command.
//!
//! ```text
//! cargo run --release --example own_tool -- parts
//! cargo run --release --example own_tool -- pretrain --method columns --epochs 2
//! cargo run --release --example own_tool -- pretrain --method custom --set masker.type=checkerboard --set target.type=mean_colour
//! ```

use std::process::ExitCode;

use mim::core::params::InitScheme;
use mim::core::parts::Part;
use mim::masking::MaskerSettings;
use mim::methods::registry::{Entry, Registry};
use mim::prelude::*;
use mim::targets::{BuiltTarget, TargetContext, TargetSettings};
use serde::{Deserialize, Serialize};

/// Hides every other square of `side` patches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Checkerboard {
    side: usize,
}

impl Default for Checkerboard {
    fn default() -> Self {
        Self { side: 1 }
    }
}

impl Part for Checkerboard {
    const ABOUT: &'static str = "every other square of patches";
    const PAPER: &'static str = "no paper";
}

impl MaskerSettings for Checkerboard {
    fn build(&self) -> Result<Box<dyn Masker>> {
        if self.side == 0 {
            let (why, fix) = ("a square has patches", "use 1 or more");
            return Err(Error::config("masker", "side", 0, why, fix));
        }
        Ok(Box::new(self.clone()))
    }
}

impl Masker for Checkerboard {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            let first = rng.random_range(0..2);
            let square = |id: usize| id / rq.grid.cols / self.side + id % rq.grid.cols / self.side;
            bits.extend((0..rq.grid.len()).map(|id| u8::from(square(id) % 2 == first)));
        }
        Mask::from_bits(rq.grid, &bits)
    }
}

/// The mean of each channel over each patch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MeanColour {}

impl Part for MeanColour {
    const ABOUT: &'static str = "the mean colour of each patch";
    const PAPER: &'static str = "no paper";
}

impl TargetSettings for MeanColour {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        Ok(BuiltTarget::new(self.clone(), cx.encoder.in_channels()))
    }
}

impl TargetGenerator for MeanColour {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let (height, width) = rq.batch.view(0)?.size();
        let patch = (height / rq.grid.rows, width / rq.grid.cols);
        let means = rq.batch.view(0)?.unit()?.avg_pool2d(patch)?;
        Ok(Target::patches(means.flatten_from(2)?.transpose(1, 2)?))
    }
}

/// A method: MAE that hides neighbouring columns of patches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ColumnsConfig {
    hidden: usize,
    encoder: VitConfig,
    decoder: MaeDecoderConfig,
}

impl Default for ColumnsConfig {
    fn default() -> Self {
        Self {
            hidden: 5,
            encoder: VitConfig::small(),
            decoder: MaeDecoderConfig::small(),
        }
    }
}

impl ColumnsConfig {
    fn mae(&self) -> MaeConfig {
        MaeConfig {
            encoder: self.encoder.clone(),
            decoder: self.decoder.clone(),
            ..MaeConfig::default()
        }
    }
}

impl MethodConfig for ColumnsConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self {
            encoder: VitConfig::arch(arch)?,
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.mae().init()
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let hidden = self.hidden;
        self.mae().build(student)?.with_masker(Columns { hidden })
    }
}

struct Columns {
    hidden: usize,
}

impl Masker for Columns {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            let first = rng.random_range(0..rq.grid.cols);
            let column = |id: usize| (id + first) % rq.grid.cols;
            bits.extend((0..rq.grid.len()).map(|id| u8::from(column(id) < self.hidden)));
        }
        Mask::from_bits(rq.grid, &bits)
    }
}

fn registry() -> Result<Registry> {
    let mut registry = Registry::default();
    registry.masker::<Checkerboard>("checkerboard")?;
    registry.target::<MeanColour>("mean_colour")?;
    registry.method(Entry {
        title: "MAE that hides columns",
        archs: &["vit_tiny", "vit_small", "vit_base"],
        ..Entry::new::<ColumnsConfig>("columns")
    })?;
    Ok(registry)
}

fn main() -> ExitCode {
    match registry() {
        Ok(registry) => mim::cli::main(registry),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
