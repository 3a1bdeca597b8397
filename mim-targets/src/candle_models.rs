//! Vision models of candle-transformers as frozen teachers (feature `candle-transformers`).
//!
//! Their layers give no gradients, which teachers do not need. Weights are safetensors with the
//! names that these models expect, usually those of the Hugging Face files.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use candle_transformers::models::{dinov2, eva2, hiera, siglip};
use mim_core::encoders::{FnEncoder, FnOutput};
use mim_core::weights::WeightMap;
use mim_core::{Error, Result};

/// Builds a model from its weights.
type Build = fn(VarBuilder<'static>) -> CandleResult<FnEncoder>;

/// The models; names hold width, patch size and image size in pixels.
const MODELS: &[(&str, Build)] = &[
    ("clip_vit_base_patch32_224", |vb| {
        clip(ClipVisionConfig::vit_base_patch32(), vb)
    }),
    ("clip_vit_large_patch14_336", |vb| {
        clip(ClipVisionConfig::clip_vit_large_patch14_336(), vb)
    }),
    ("siglip_base_patch16_224", |vb| {
        siglip_vision(siglip::Config::base_patch16_224().vision_config, vb)
    }),
    ("siglip_so400m_patch14_224", |vb| {
        siglip_vision(siglip::VisionConfig::paligemma_3b_224(), vb)
    }),
    ("dinov2_vit_small_patch14_518", |vb| dino(vb, 12, 384, 6)),
    ("dinov2_vit_base_patch14_518", |vb| dino(vb, 12, 768, 12)),
    ("dinov2_vit_large_patch14_518", |vb| dino(vb, 24, 1024, 16)),
    ("eva02_vit_base_patch14_448", |vb| eva(vb, 12, 768, 12)),
    ("eva02_vit_large_patch14_448", |vb| eva(vb, 24, 1024, 16)),
    ("hiera_tiny_224", |vb| {
        pooled_hiera(&hiera::Config::tiny(), vb)
    }),
    ("hiera_base_224", |vb| {
        pooled_hiera(&hiera::Config::base(), vb)
    }),
    ("hiera_large_224", |vb| {
        pooled_hiera(&hiera::Config::large(), vb)
    }),
];

/// Names for [`candle_model`].
pub fn candle_models() -> Vec<&'static str> {
    MODELS.iter().map(|(name, _)| *name).collect()
}

/// Builds the model called `name` from `weights`, which keep their names.
///
/// CLIP gives its tokens before the final norm; SigLIP, DINOv2 and EVA-02 give their patches after it;
/// Hiera gives one row per image.
///
/// # Errors
///
/// [`Error::InvalidConfig`] listing the models, or candle's error for mismatched weights.
pub fn candle_model(name: &str, weights: &WeightMap, device: &Device) -> Result<FnEncoder> {
    let found = MODELS.iter().find(|(known, _)| *known == name);
    let (_, build) = found.ok_or_else(|| {
        let fix = format!("use one of {}", candle_models().join(", "));
        Error::config(
            "target",
            "candle_model",
            name,
            "it is not a known model",
            fix,
        )
    })?;
    let tensors = weights
        .iter()
        .map(|(name, tensor)| Ok((name.to_owned(), tensor.to_device(device)?)))
        .collect::<Result<_>>()?;
    Ok(build(VarBuilder::from_tensors(
        tensors,
        DType::F32,
        device,
    ))?)
}

fn clip(config: ClipVisionConfig, vb: VarBuilder<'static>) -> CandleResult<FnEncoder> {
    let (dim, patch_size) = (config.embed_dim, config.patch_size);
    let model = ClipVisionTransformer::new(vb.pp("vision_model"), &config)?;
    let forward = move |images: &Tensor| {
        // The last state is the pooled row, the one before it the output of the last block.
        let mut states = model.output_hidden_states(images)?;
        states.pop();
        states
            .pop()
            .ok_or_else(|| candle_core::Error::msg("a CLIP without blocks"))
    };
    let prefix = 1;
    Ok(FnEncoder::new(
        forward,
        FnOutput::Tokens { prefix, patch_size },
        dim,
    ))
}

/// SigLIP's vision model with custom settings, as a teacher.
///
/// # Errors
///
/// candle's error for mismatched weights.
pub fn siglip_vision(
    config: siglip::VisionConfig,
    vb: VarBuilder<'static>,
) -> CandleResult<FnEncoder> {
    let (dim, patch_size) = (config.hidden_size, config.patch_size);
    let model = siglip::VisionModel::new(&config, false, vb.pp("vision_model"))?;
    let output = FnOutput::Tokens {
        prefix: 0,
        patch_size,
    };
    let forward = move |images: &Tensor| model.forward(images);
    Ok(FnEncoder::new(forward, output, dim))
}

/// Patch tokens of 14 pixels, without class token.
const PATCHES_OF_14: FnOutput = FnOutput::Tokens {
    prefix: 0,
    patch_size: 14,
};

fn dino(
    vb: VarBuilder<'static>,
    depth: usize,
    dim: usize,
    heads: usize,
) -> CandleResult<FnEncoder> {
    let model = dinov2::DinoVisionTransformer::new(vb, depth, dim, heads)?;
    let last = [depth - 1];
    let forward = move |images: &Tensor| {
        let layers = model.get_intermediate_layers(images, &last, false, false, true)?;
        layers.squeeze(0)
    };
    Ok(FnEncoder::new(forward, PATCHES_OF_14, dim))
}

fn eva(vb: VarBuilder<'static>, depth: usize, dim: usize, heads: usize) -> CandleResult<FnEncoder> {
    let model = eva2::EVA2VisionTransformer::new(vb, depth, dim, heads)?;
    let last = [depth - 1];
    let forward = move |images: &Tensor| {
        let layers = model.get_intermediate_layers(images, &last, false, false, true)?;
        layers.squeeze(0)
    };
    Ok(FnEncoder::new(forward, PATCHES_OF_14, dim))
}

fn pooled_hiera(config: &hiera::Config, vb: VarBuilder<'static>) -> CandleResult<FnEncoder> {
    let dim = vb
        .get_unchecked("head.norm.weight")
        .and_then(|norm| norm.dim(0));
    let model = hiera::hiera_no_final_layer(config, vb)?;
    let forward = move |images: &Tensor| model.forward(images);
    Ok(FnEncoder::new(forward, FnOutput::Pooled, dim?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::{Activation, VarMap};
    use mim_core::{EncodeOptions, Encoder, Masking, PatchGrid, StepContext};

    #[test]
    fn a_small_siglip_teaches_patches_without_gradient() {
        let config = siglip::VisionConfig {
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_channels: 3,
            image_size: 32,
            patch_size: 8,
            hidden_act: Activation::GeluPytorchTanh,
            layer_norm_eps: 1e-6,
        };
        // Build it once to create the weights, then read them as from a file.
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        siglip_vision(config.clone(), vb).unwrap();
        let tensors = vars.data().lock().unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let teacher = siglip_vision(config, vb).unwrap();
        let images = Tensor::rand(0f32, 1f32, (2, 3, 32, 32), &Device::Cpu).unwrap();
        let step = StepContext::inference();
        let encoded = teacher
            .encode(&images, Masking::None, &EncodeOptions::default(), &step)
            .unwrap();
        assert_eq!(encoded.tokens.dims(), [2, 16, 8]);
        assert_eq!(encoded.grid, PatchGrid::new(4, 4));
        assert!(!encoded.tokens.track_op());
    }

    #[test]
    fn unknown_models_get_a_list_of_known_ones() {
        let error = candle_model("dino", &WeightMap::default(), &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("hiera_tiny_224"), "{error}");
        let missing = "siglip_base_patch16_224";
        assert!(candle_model(missing, &WeightMap::default(), &Device::Cpu).is_err());
    }
}
