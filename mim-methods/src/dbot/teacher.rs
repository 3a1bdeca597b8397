//! The teachers of dBOT.

use candle_core::Tensor;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::params::ParamStore;
use mim_core::schedule::stage_of;
use mim_core::{
    EncodeOptions, Encoded, Encoder, Error, Masking, Norm, PatchGrid, Result, StepContext,
};

use super::{DBotConfig, NAME};
use crate::{FrozenConfig, MethodConfig};

/// The teacher of the current stage.
pub(super) struct StagedTeacher {
    starts: Vec<usize>,
    first: First,
    later: Vit,
}

enum First {
    /// A random network, with the same number of blocks or more.
    Random(Box<Vit>),
    /// A trained network.
    Trained {
        network: Box<dyn Encoder>,
        /// The normalisations of the student and of the network, if they differ.
        norms: Option<(Norm, Norm)>,
    },
}

impl DBotConfig {
    /// Refuses settings that have no effect with a trained first teacher.
    pub(super) fn check_first_teacher(&self) -> Result<()> {
        let Some(first) = &self.first_teacher else {
            return Ok(());
        };
        if first.view != 0 {
            let why = "teachers see the student's view";
            let field = "first_teacher.view";
            return Err(Error::config(NAME, field, first.view, why, "remove it"));
        }
        if let Some(depth) = self.first_teacher_depth {
            let why = "`first_teacher` is a trained network and has its own depth";
            let fix = "remove one of the two";
            let field = "first_teacher_depth";
            return Err(Error::config(NAME, field, depth, why, fix));
        }
        Ok(())
    }

    /// Blocks of the random teacher of the first stage.
    pub(super) fn random_depth(&self) -> usize {
        let own = self.encoder.depth;
        let default = if own <= 12 { own } else { 0 };
        self.first_teacher_depth.unwrap_or(default)
    }

    /// The trained network, if its sizes match the encoder.
    fn trained(&self, first: &FrozenConfig, student: &ParamStore) -> Result<First> {
        let (network, encoder) = (
            first.open_for(student.device(), self.encoder.in_channels)?,
            &self.encoder,
        );
        if network.dim() != encoder.output_dim() {
            return Err(Error::config(
                NAME,
                "first_teacher",
                format!("a network of width {}", network.dim()),
                format!(
                    "the student's width is {}, and later teachers are copies of it",
                    encoder.output_dim()
                ),
                "give a network of that width, or set encoder.embed_dim",
            ));
        }
        let (own, wanted) = (network.grid(encoder.image_size.into())?, encoder.grid()?);
        if own != wanted {
            return Err(Error::shape(
                "features of first_teacher",
                format!("one for each patch of the grid {wanted}"),
                format!("{own}"),
                "give a network with the encoder's patches, or set encoder.patch_size",
            ));
        }
        let norm = first.norm.clone().filter(|norm| *norm != self.norm);
        Ok(First::Trained {
            network,
            norms: norm.map(|norm| (self.norm.clone(), norm)),
        })
    }
}

impl StagedTeacher {
    /// The teachers of all stages. Those without their own weights share one store; the first may have more or fewer
    /// blocks than the others.
    ///
    /// # Errors
    ///
    /// If a trained network cannot be opened, or its sizes do not match the encoder.
    pub(super) fn new(config: &DBotConfig, student: &ParamStore) -> Result<(Self, ParamStore)> {
        let store = ParamStore::teacher(student.device());
        // Without training no teacher is needed.
        let named = config.first_teacher.as_ref().filter(|_| student.trains());
        let first_depth = match named {
            Some(_) => 0,
            None => config.random_depth(),
        };
        let encoder = VitConfig {
            depth: config.encoder.depth.max(first_depth),
            ..config.encoder.clone()
        };
        let whole = Vit::new(&store.root(), &encoder)?;
        if let Some(seed) = student.seed() {
            // Blocks that the student lacks are initialised; all others start as copies.
            let blocks = |name: &str| name.starts_with("blocks.");
            store.redraw(config.init().as_ref(), (seed, "teacher"), blocks)?;
        }
        store.copy_from(student)?;
        let first = match named {
            Some(named) => config.trained(named, student)?,
            None => First::Random(Box::new(whole.clone().truncated(first_depth))),
        };
        let teacher = Self {
            starts: config.stage_starts.clone(),
            first,
            later: whole.truncated(config.encoder.depth),
        };
        Ok((teacher, store))
    }
}

impl Encoder for StagedTeacher {
    fn dim(&self) -> usize {
        self.later.dim()
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.later.grid(image)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        if stage_of(&self.starts, step.epoch) > 0 {
            return self.later.encode(image, masking, want, step);
        }
        match &self.first {
            First::Random(network) => network.encode(image, masking, want, step),
            First::Trained { network, norms } => {
                let image = match norms {
                    Some((students, own)) => own.apply(&students.invert(image)?)?,
                    None => image.clone(),
                };
                network.encode(&image, masking, want, step)
            }
        }
    }
}
