//! I2P-MAE: Learning 3D Representations from 2D Pre-trained Models via Image-to-Point Masked Autoencoders (Zhang et
//! al., CVPR 2023, arXiv 2212.06785), and without its 2D network Point-M2AE (Zhang et al., NeurIPS 2022, arXiv
//! 2205.14401).
//!
//! Groups of points are hidden from a transformer on three levels, and predicted. A frozen 2D network sees the cloud as
//! three depth maps: its attention selects the groups that stay visible, and its features are predicted from them.
//! Reference: ZrrSkywalker/I2P-MAE @ 7d4e519.

mod golden;
mod look;
mod method;
mod picture;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{PointDecoder, PointDecoderConfig};
use mim_core::encoders::{PointEncoder, PointEncoderConfig};
use mim_core::nn::Linear;
use mim_core::objectives::ChamferKind;
use mim_core::params::{InitScheme, ParamStore, PointInit};
use mim_core::points::{DepthMapsConfig, VIEWS};
use mim_core::{Encoder, Error, ImageSize, Input, Norm, Result};
use mim_masking::WeightedMaskerConfig;
use serde::{Deserialize, Serialize};

use self::look::Teacher;
pub use self::method::I2pMae;
use crate::registry::Entry;
use crate::{FrozenConfig, MethodConfig};

const NAME: &str = "i2pmae";

/// Settings of I2P-MAE; `Default` is the released recipe; CLIP's weights must be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct I2pMaeConfig {
    /// Fraction of the coarsest groups hidden, above 0 and below 1. Default 0.8.
    pub mask_ratio: f64,
    /// Whether the 2D network's attention guides which groups stay visible; uniform if not. Default true.
    pub guided: bool,
    /// Whether group 0 of a batch's first cloud is always visible on the finer levels. Default true.
    // Parity: the authors clear the mask at index 0 for every member of a hidden group.
    pub first_visible: bool,
    /// Distance between points in the loss of hidden groups. Default `l2`.
    pub chamfer: ChamferKind,
    /// Augmentation. Default: points in the unit sphere, axes scaled by 2/3 to 3/2, and moved by up to 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Depth maps of a cloud for the 2D network; they have the size of its images.
    pub maps: DepthMapsConfig,
    /// The encoder.
    pub encoder: PointEncoderConfig,
    /// The decoder.
    pub decoder: PointDecoderConfig,
    /// What is predicted besides points. Default features of CLIP.
    pub target: I2pMaeTarget,
}

/// What I2P-MAE predicts besides the points of hidden groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum I2pMaeTarget {
    /// Features of a frozen 2D network at the points of visible groups. It sees the maps, so `view` and `norm` are
    /// refused.
    Features(Box<FrozenConfig>),
    /// Nothing (Point-M2AE).
    Points,
}

impl Default for I2pMaeTarget {
    fn default() -> Self {
        Self::Features(Box::default())
    }
}

impl Default for I2pMaeConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.8,
            guided: true,
            first_visible: true,
            chamfer: ChamferKind::L2,
            views: None,
            maps: DepthMapsConfig::default(),
            encoder: PointEncoderConfig::default(),
            decoder: PointDecoderConfig::default(),
            target: I2pMaeTarget::default(),
        }
    }
}

impl I2pMaeConfig {
    fn check(&self) -> Result<()> {
        self.encoder.validate()?;
        if let I2pMaeTarget::Features(network) = &self.target {
            self.maps.check()?;
            for (field, is_set) in [
                ("target.norm", network.norm.is_some()),
                ("target.view", network.view != 0),
            ] {
                if is_set {
                    let why = "the network sees depth maps, not a view of the data";
                    let fix = "remove it; maps.norm is the normalisation of the maps";
                    return Err(Error::config(NAME, field, "set", why, fix));
                }
            }
        } else if self.maps != DepthMapsConfig::default() {
            let (why, fix) = (
                "without a 2D network, depth maps are not used",
                "remove them",
            );
            return Err(Error::config(NAME, "maps", "set", why, fix));
        } else if self.guided {
            let why = "without a 2D network there is no attention to guide the mask";
            let fix = "set guided = false, or target.type = \"features\"";
            return Err(Error::config(NAME, "guided", true, why, fix));
        }
        Ok(())
    }

    /// The method with this 2D network instead of the one from the settings.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        network: Option<Box<dyn Encoder>>,
    ) -> Result<I2pMae> {
        self.check()?;
        let (params, points) = (student.root(), self.encoder.num_points);
        let encoder = PointEncoder::new(&params, &self.encoder)?;
        let decoder = PointDecoder::new(&params, &self.decoder, &self.encoder)?;
        let level = decoder.level();
        let (dim, members) = (
            self.encoder.embed_dims[level],
            self.encoder.group_sizes[level],
        );
        let teacher = match (&self.target, network) {
            (I2pMaeTarget::Features(_), Some(network)) => {
                let side = self.maps.image_size;
                network.grid((side, side))?;
                let values = members * VIEWS.len() * network.dim();
                let head = Linear::new(&params.pp("rec_head_2d"), dim, values)?;
                Some((Teacher::new(network, self.maps.clone()), head))
            }
            (I2pMaeTarget::Features(_), None) => {
                let (why, fix) = ("there is no teacher", "build from the settings");
                return Err(Error::unsupported("features without a network", why, fix));
            }
            (I2pMaeTarget::Points, _) => None,
        };
        let views = self.views.clone();
        let masker = WeightedMaskerConfig {
            mask_ratio: self.mask_ratio,
        };
        Ok(I2pMae {
            student: student.clone(),
            head: Linear::new(&params.pp("rec_head_3d"), dim, 3 * members)?,
            encoder,
            decoder,
            teacher,
            masker: Box::new(masker.build()?.counting_hidden()),
            views: views.unwrap_or_else(|| ViewPlan::scaled_points(points)),
            input: Input {
                size: ImageSize {
                    height: points,
                    width: 1,
                },
                norm: Norm::uniform(0., 1., 3),
            },
            config: self.clone(),
        })
    }
}

impl MethodConfig for I2pMaeConfig {
    type Method = I2pMae;

    fn arch(arch: &str) -> Result<Self> {
        let (why, fix) = (
            "this method has only one size",
            "set encoder.embed_dims and .depths",
        );
        Err(Error::config(NAME, "arch", arch, why, fix))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        let dims = self.encoder.embed_dims.iter().rev();
        Box::new(PointInit {
            decoder_dims: dims.take(self.decoder.depths.len()).copied().collect(),
        })
    }

    fn build(&self, student: &ParamStore) -> Result<I2pMae> {
        self.check()?;
        let network = match &self.target {
            I2pMaeTarget::Features(network) => Some(network.open(student.device())?),
            I2pMaeTarget::Points => None,
        };
        self.compose(student, network)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "I2P-MAE: Learning 3D Representations from 2D Pre-trained Models via Image-to-Point Masked Autoencoders",
    paper: "Zhang et al., CVPR 2023, arXiv 2212.06785",
    reference: "ZrrSkywalker/I2P-MAE @ 7d4e519",
    about: crate::registry::About {
        hidden: "80 % of the coarsest groups of points, more often those with little 2D attention",
        predicted: "the points of the hidden groups, and 2D features of the visible ones",
        by: "a point decoder of three scales",
        loss: "Chamfer distance and mean squared error",
        choose: "Point clouds.",
    },
    status: "exact: groups, depth maps, CLIP's features and attention, masks, forward, losses, gradients",
    recipes: recipes!("i2pmae_32px", "point_m2ae_32px", "i2pmae_base"),
    parity: golden::setup,
    clouds: true,
    ..Entry::new::<I2pMaeConfig>(NAME)
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_named() {
        type Change = fn(&mut I2pMaeConfig);
        let changes: [(Change, &str); 4] = [
            (|c| c.target = I2pMaeTarget::Points, "`guided` is true"),
            (|c| c.mask_ratio = 1., "`mask_ratio` is 1"),
            (|c| c.decoder.depths = vec![1; 4], "`depths`"),
            (
                |c| {
                    if let I2pMaeTarget::Features(network) = &mut c.target {
                        network.view = 1;
                    }
                },
                "`target.view`",
            ),
        ];
        for (change, part) in changes {
            let mut config = I2pMaeConfig::default();
            change(&mut config);
            let store = ParamStore::teacher(&candle_core::Device::Cpu);
            if config.mask_ratio == 1. || config.decoder.depths.len() == 4 {
                (config.target, config.guided) = (I2pMaeTarget::Points, false);
            }
            let error = config.build(&store).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let without = I2pMaeConfig::default().build(&ParamStore::cpu(0));
        assert!(without.unwrap_err().to_string().contains("checkpoint"));
    }
}
