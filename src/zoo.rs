//! Published weights that fit the encoders here, where they live, and under which licence.

use mim_core::Norm;
use mim_core::Result;
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::{EncoderConfig, RelPosBiasKind, SwinConfig, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};

/// Published weights.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// A short name.
    pub name: &'static str,
    /// The method that made them.
    pub method: &'static str,
    /// The encoder's size.
    pub arch: &'static str,
    /// The repository on the Hugging Face Hub, or the address of the file.
    pub home: &'static str,
    /// Whose names they have ([`mim_core::weights::Source`]).
    pub source: &'static str,
    /// The licence, as their home states it.
    pub licence: &'static str,
    /// Normalisation of the images: `imagenet`, `half` or `clip`.
    pub norm: &'static str,
    /// Accuracy on ImageNet-1K as published, and where; empty if none is published for this file.
    pub numbers: &'static str,
}

const MAE_CARD: &str = "apache-2.0 (its card; the authors' repository: CC-BY-NC-4.0)";
const NON_COMMERCIAL: &str = "CC-BY-NC-4.0";
const UNKNOWN: &str = "not recorded here: see its card";

/// A row of the table, in the order of the fields.
const fn row(
    [name, method, arch]: [&'static str; 3],
    [home, source]: [&'static str; 2],
    licence: &'static str,
    [norm, numbers]: [&'static str; 2],
) -> Published {
    Published {
        name,
        method,
        arch,
        home,
        source,
        licence,
        norm,
        numbers,
    }
}

const B_FT: &str = "83.66 fine-tuned (MAE, FINETUNE.md)";
const L_FT: &str = "85.95 fine-tuned (MAE, FINETUNE.md)";
const H_FT: &str = "86.93 fine-tuned (MAE, FINETUNE.md)";
/// The folder of the MAE authors' files.
macro_rules! mae_file {
    ($name:literal) => {
        concat!("https://dl.fbaipublicfiles.com/mae/pretrain/", $name)
    };
}

/// All published weights known here.
pub const ZOO: &[Published] = &[
    row(
        ["mae_base", "mae", "vit_base"],
        [mae_file!("mae_pretrain_vit_base.pth"), "mae"],
        NON_COMMERCIAL,
        ["imagenet", B_FT],
    ),
    row(
        ["mae_large", "mae", "vit_large"],
        [mae_file!("mae_pretrain_vit_large.pth"), "mae"],
        NON_COMMERCIAL,
        ["imagenet", L_FT],
    ),
    row(
        ["mae_huge", "mae", "vit_huge"],
        [mae_file!("mae_pretrain_vit_huge.pth"), "mae"],
        NON_COMMERCIAL,
        ["imagenet", H_FT],
    ),
    row(
        ["mae_base_timm", "mae", "vit_base"],
        ["timm/vit_base_patch16_224.mae", "timm"],
        NON_COMMERCIAL,
        ["imagenet", B_FT],
    ),
    row(
        ["mae_large_timm", "mae", "vit_large"],
        ["timm/vit_large_patch16_224.mae", "timm"],
        NON_COMMERCIAL,
        ["imagenet", L_FT],
    ),
    row(
        ["mae_huge_timm", "mae", "vit_huge"],
        ["timm/vit_huge_patch14_224.mae", "timm"],
        NON_COMMERCIAL,
        ["imagenet", H_FT],
    ),
    row(
        ["mae_base_hf", "mae", "vit_base"],
        ["facebook/vit-mae-base", "hf_vit_mae"],
        MAE_CARD,
        ["imagenet", ""],
    ),
    row(
        ["mae_large_hf", "mae", "vit_large"],
        ["facebook/vit-mae-large", "hf_vit_mae"],
        MAE_CARD,
        ["imagenet", ""],
    ),
    row(
        ["mae_huge_hf", "mae", "vit_huge"],
        ["facebook/vit-mae-huge", "hf_vit_mae"],
        MAE_CARD,
        ["imagenet", ""],
    ),
    row(
        ["simmim_swin_base", "simmim", "swin_base"],
        ["microsoft/swin-base-simmim-window6-192", "hf_swin"],
        UNKNOWN,
        ["imagenet", ""],
    ),
    row(
        ["simmim_swin_large", "simmim", "swin_large"],
        ["microsoft/swin-large-simmim-window12-192", "hf_swin"],
        UNKNOWN,
        ["imagenet", "85.4 fine-tuned, 800 epochs (SimMIM, README)"],
    ),
    row(
        ["beit_base", "beit", "vit_base"],
        ["microsoft/beit-base-patch16-224-pt22k", "hf_beit"],
        UNKNOWN,
        ["half", "83.7 fine-tuned (BEiT, README)"],
    ),
    row(
        ["dino_small", "dino", "vit_small"],
        ["timm/vit_small_patch16_224.dino", "timm"],
        "apache-2.0",
        ["imagenet", ""],
    ),
    row(
        ["dino_base", "dino", "vit_base"],
        ["timm/vit_base_patch16_224.dino", "timm"],
        "apache-2.0",
        ["imagenet", ""],
    ),
    row(
        ["clip_base", "clip", "clip_vit_base_patch16"],
        ["openai/clip-vit-base-patch16", "hf_clip"],
        "MIT",
        ["clip", ""],
    ),
    row(
        ["clip_large", "clip", "clip_vit_large_patch14"],
        ["openai/clip-vit-large-patch14", "hf_clip"],
        "MIT",
        ["clip", ""],
    ),
];

impl Published {
    /// The encoder that the weights fit.
    ///
    /// # Errors
    ///
    /// Fails only if the table is wrong.
    pub fn encoder(&self) -> Result<EncoderConfig> {
        if self.method == "clip" {
            return Ok(VitConfig::clip(self.arch)?.into());
        }
        if self.method == "simmim" {
            return Ok(SwinConfig::arch(self.arch)?.into());
        }
        let vit = VitConfig::arch(self.arch)?;
        Ok(EncoderConfig::Vit(match (self.method, self.source) {
            ("mae", "hf_vit_mae") => VitConfig {
                norm_eps: 1e-12,
                ..vit
            },
            ("dino", _) => VitConfig {
                pos_embed: PosEmbedKind::Learned,
                ..vit
            },
            ("beit", _) => VitConfig {
                qkv_bias: QkvBias::QV,
                layer_scale_init: Some(0.1),
                pos_embed: PosEmbedKind::None,
                rel_pos_bias: RelPosBiasKind::Shared,
                mask_token: true,
                // transformers' config.json; the authors' code has 1e-6.
                norm_eps: 1e-12,
                ..vit
            },
            _ => vit,
        }))
    }

    /// The decoder in the same file, if it is MAE's.
    pub fn decoder(&self) -> Option<MaeDecoderConfig> {
        (self.source == "hf_vit_mae").then(|| MaeDecoderConfig {
            norm_eps: 1e-12,
            ..MaeDecoderConfig::default()
        })
    }

    /// How images are normalised for them.
    pub fn normalisation(&self) -> Norm {
        let norm = |mean: [f64; 3], std: [f64; 3]| Norm {
            mean: mean.to_vec(),
            std: std.to_vec(),
            reverse_channels: false,
        };
        match self.norm {
            "clip" => norm(
                [0.48145466, 0.4578275, 0.40821073],
                [0.26862954, 0.26130258, 0.27577711],
            ),
            "half" => norm([0.5; 3], [0.5; 3]),
            _ => Norm::imagenet(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use mim_core::ParamStore;
    use mim_core::decoders::{LinearDecoder, MaeDecoder};
    use mim_core::weights::{Source, WeightMap};

    /// Names and shapes of a file.
    type Headers = Vec<(String, Vec<usize>)>;

    fn pair(headers: &mut Headers, name: &str, shape: &[usize]) {
        headers.push((format!("{name}.weight"), shape.to_vec()));
        headers.push((format!("{name}.bias"), vec![shape[0]]));
    }

    /// A block in the names of timm and MAE.
    fn timm_block(headers: &mut Headers, block: &str, dim: usize) {
        for norm in ["norm1", "norm2"] {
            pair(headers, &format!("{block}.{norm}"), &[dim]);
        }
        pair(headers, &format!("{block}.attn.qkv"), &[3 * dim, dim]);
        pair(headers, &format!("{block}.attn.proj"), &[dim, dim]);
        pair(headers, &format!("{block}.mlp.fc1"), &[4 * dim, dim]);
        pair(headers, &format!("{block}.mlp.fc2"), &[dim, 4 * dim]);
    }

    /// A block in the names of transformers' ViT, Swin (`attention.self`) and BEiT (no bias of the key).
    fn hf_block(headers: &mut Headers, block: &str, dim: usize, own: &str) {
        for norm in ["layernorm_before", "layernorm_after"] {
            pair(headers, &format!("{block}.{norm}"), &[dim]);
        }
        for part in ["query", "key", "value"] {
            let name = format!("{block}.attention.{own}.{part}");
            headers.push((format!("{name}.weight"), vec![dim, dim]));
            if !block.starts_with("beit") || part != "key" {
                headers.push((format!("{name}.bias"), vec![dim]));
            }
        }
        pair(
            headers,
            &format!("{block}.attention.output.dense"),
            &[dim, dim],
        );
        pair(
            headers,
            &format!("{block}.intermediate.dense"),
            &[4 * dim, dim],
        );
        pair(headers, &format!("{block}.output.dense"), &[dim, 4 * dim]);
    }

    fn vit(entry: &Published, depth: usize) -> Headers {
        let (dim, patch, tokens) = match entry.arch {
            "vit_small" => (384, 16, 196),
            "vit_base" => (768, 16, 196),
            "vit_large" => (1024, 16, 196),
            _ => (1280, 14, 256),
        };
        let mut headers: Headers = vec![];
        if matches!(entry.source, "timm" | "mae") {
            headers.push(("cls_token".into(), vec![1, 1, dim]));
            headers.push(("pos_embed".into(), vec![1, tokens + 1, dim]));
            pair(&mut headers, "patch_embed.proj", &[dim, 3, patch, patch]);
            pair(&mut headers, "norm", &[dim]);
            (0..depth).for_each(|i| timm_block(&mut headers, &format!("blocks.{i}"), dim));
            return headers;
        }
        let (model, norm) = match entry.source {
            "hf_beit" => ("beit", "layernorm"),
            _ => ("vit", "vit.layernorm"),
        };
        headers.push((format!("{model}.embeddings.cls_token"), vec![1, 1, dim]));
        pair(
            &mut headers,
            &format!("{model}.embeddings.patch_embeddings.projection"),
            &[dim, 3, patch, patch],
        );
        pair(&mut headers, norm, &[dim]);
        for i in 0..depth {
            let block = format!("{model}.encoder.layer.{i}");
            hf_block(&mut headers, &block, dim, "attention");
            if model == "beit" {
                headers.extend(
                    ["lambda_1", "lambda_2"].map(|name| (format!("{block}.{name}"), vec![dim])),
                );
            }
        }
        if model == "beit" {
            headers.push(("beit.embeddings.mask_token".into(), vec![1, 1, dim]));
            let table = "beit.encoder.relative_position_bias.relative_position_bias_table";
            headers.push((table.into(), vec![27 * 27 + 3, dim / 64]));
            pair(&mut headers, "lm_head", &[8192, dim]);
            return headers;
        }
        headers.push((
            "vit.embeddings.position_embeddings".into(),
            vec![1, tokens + 1, dim],
        ));
        headers.push(("decoder.mask_token".into(), vec![1, 1, 512]));
        headers.push(("decoder.decoder_pos_embed".into(), vec![1, tokens + 1, 512]));
        pair(&mut headers, "decoder.decoder_embed", &[512, dim]);
        pair(&mut headers, "decoder.decoder_norm", &[512]);
        pair(
            &mut headers,
            "decoder.decoder_pred",
            &[patch * patch * 3, 512],
        );
        for i in 0..8 {
            hf_block(
                &mut headers,
                &format!("decoder.decoder_layers.{i}"),
                512,
                "attention",
            );
        }
        headers
    }

    fn swin(entry: &Published) -> Headers {
        let (dim, heads, window) = match entry.arch {
            "swin_base" => (128, 4, 6),
            _ => (192, 6, 12),
        };
        let mut headers: Headers = vec![("swin.embeddings.mask_token".into(), vec![1, 1, dim])];
        pair(
            &mut headers,
            "swin.embeddings.patch_embeddings.projection",
            &[dim, 3, 4, 4],
        );
        pair(&mut headers, "swin.embeddings.norm", &[dim]);
        pair(&mut headers, "swin.layernorm", &[8 * dim]);
        for stage in 0..4 {
            let dim = dim << stage;
            let block = format!("swin.encoder.layers.{stage}.blocks.0");
            hf_block(&mut headers, &block, dim, "self");
            // The last grid is 6x6: no window is larger.
            let side = if stage == 3 { 6 } else { window };
            let table = format!("{block}.attention.self.relative_position_bias_table");
            headers.push((table, vec![(2 * side - 1usize).pow(2), heads << stage]));
            let index = format!("{block}.attention.self.relative_position_index");
            headers.push((index, vec![side * side, side * side]));
            if stage < 3 {
                let merging = format!("swin.encoder.layers.{stage}.downsample");
                pair(&mut headers, &format!("{merging}.norm"), &[4 * dim]);
                headers.push((
                    format!("{merging}.reduction.weight"),
                    vec![2 * dim, 4 * dim],
                ));
            }
        }
        headers.push(("decoder.0.weight".into(), vec![32 * 32 * 3, 8 * dim, 1, 1]));
        headers.push(("decoder.0.bias".into(), vec![32 * 32 * 3]));
        headers
    }

    fn clip(entry: &Published, depth: usize) -> Headers {
        let (dim, patch, tokens, projection) = match entry.arch {
            "clip_vit_base_patch16" => (768, 16, 196, 512),
            _ => (1024, 14, 256, 768),
        };
        let mut headers: Headers = vec![
            ("vision_model.embeddings.class_embedding".into(), vec![dim]),
            (
                "vision_model.embeddings.position_embedding.weight".into(),
                vec![tokens + 1, dim],
            ),
            (
                "vision_model.embeddings.position_ids".into(),
                vec![1, tokens + 1],
            ),
            (
                "vision_model.embeddings.patch_embedding.weight".into(),
                vec![dim, 3, patch, patch],
            ),
            ("visual_projection.weight".into(), vec![projection, dim]),
            (
                "text_projection.weight".into(),
                vec![projection, projection],
            ),
            (
                "text_model.final_layer_norm.weight".into(),
                vec![projection],
            ),
            ("logit_scale".into(), vec![]),
        ];
        for norm in ["pre_layrnorm", "post_layernorm"] {
            pair(&mut headers, &format!("vision_model.{norm}"), &[dim]);
        }
        for i in 0..depth {
            let block = format!("vision_model.encoder.layers.{i}");
            for norm in ["layer_norm1", "layer_norm2"] {
                pair(&mut headers, &format!("{block}.{norm}"), &[dim]);
            }
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                pair(
                    &mut headers,
                    &format!("{block}.self_attn.{part}"),
                    &[dim, dim],
                );
            }
            pair(&mut headers, &format!("{block}.mlp.fc1"), &[4 * dim, dim]);
            pair(&mut headers, &format!("{block}.mlp.fc2"), &[dim, 4 * dim]);
        }
        headers
    }

    /// What the file of an entry holds, by the specifications of its home; of the blocks, as many as [`cut`] keeps.
    fn headers(entry: &Published) -> Headers {
        match entry.method {
            "clip" => clip(entry, 1),
            "simmim" => swin(entry),
            _ => vit(entry, 1),
        }
    }

    /// One block in place of many: all others have the same names and shapes.
    fn cut(encoder: EncoderConfig) -> EncoderConfig {
        match encoder {
            EncoderConfig::Vit(vit) => VitConfig { depth: 1, ..vit }.into(),
            EncoderConfig::Swin(swin) => SwinConfig {
                depths: vec![1; 4],
                ..swin
            }
            .into(),
            other => other,
        }
    }

    #[test]
    fn every_entry_maps_onto_our_model_with_nothing_missing_or_left_over() {
        for entry in ZOO {
            let encoder = cut(entry.encoder().unwrap());
            let store = ParamStore::teacher(&Device::Cpu);
            encoder.build(&store.root()).unwrap();
            let (dim, grid) = (encoder.dim(), encoder.grid().unwrap());
            if let Some(decoder) = entry.decoder() {
                MaeDecoder::new(&store.root(), &decoder, grid, (dim, encoder.patch_values()))
                    .unwrap();
            }
            match entry.source {
                "hf_swin" => drop(LinearDecoder::new(&store.root(), dim, 32 * 32 * 3).unwrap()),
                "hf_beit" => drop(LinearDecoder::new(&store.root(), dim, 8192).unwrap()),
                _ => {}
            }
            let zero = Tensor::zeros(1, DType::U8, &Device::Cpu).unwrap();
            let theirs: WeightMap = headers(entry)
                .into_iter()
                .map(|(name, shape)| (name, zero.broadcast_as(shape.as_slice()).unwrap()))
                .collect();
            let ours = Source::named(entry.source)
                .unwrap()
                .import(&theirs)
                .unwrap();
            let report = store
                .load(&ours)
                .unwrap_or_else(|error| panic!("{}: {error}", entry.name));
            assert!(report.is_complete(), "{}", entry.name);
        }
    }

    #[test]
    fn entries_are_told_apart_and_normalised() {
        for (at, entry) in ZOO.iter().enumerate() {
            assert!(
                ZOO[..at].iter().all(|other| other.name != entry.name),
                "{}",
                entry.name
            );
            let norm = entry.normalisation();
            norm.check(entry.encoder().unwrap().in_channels()).unwrap();
        }
    }
}
