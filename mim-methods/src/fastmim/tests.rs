use super::*;
use candle_core::{Device, Tensor};
use mim_core::optim::{AdamW, AdamWConfig, Gradients, Optimizer};
use mim_core::{Batch, Mask, Method, PatchGrid, StepContext, View};

fn vit() -> FastMimConfig {
    let encoder = VitConfig {
        image_size: 32.into(),
        patch_size: 8,
        embed_dim: 16,
        depth: 1,
        num_heads: 2,
        ..VitConfig::default()
    };
    FastMimConfig {
        encoder: encoder.into(),
        decoder: LightDecoderConfig {
            embed_dim: 12,
            ..LightDecoderConfig::default()
        },
        ..FastMimConfig::default()
    }
}

/// Output stride 16.
fn swin() -> FastMimConfig {
    let encoder = SwinConfig {
        image_size: 32.into(),
        embed_dim: 8,
        depths: vec![2, 1, 1],
        num_heads: vec![1, 2, 2],
        window_size: 2,
        ..SwinConfig::default()
    };
    FastMimConfig {
        encoder: encoder.into(),
        ..vit()
    }
}

fn pvt() -> FastMimConfig {
    let encoder = PvtV2Config {
        image_size: 32.into(),
        embed_dims: vec![8, 8, 16],
        depths: vec![1, 1, 1],
        num_heads: vec![1, 2, 2],
        mlp_ratios: vec![2., 2., 2.],
        sr_ratios: vec![4, 2, 1],
        ..PvtV2Config::default()
    };
    FastMimConfig {
        encoder: encoder.into(),
        ..vit()
    }
}

fn build(config: &FastMimConfig) -> Composite {
    config.build(&config.store(&Device::Cpu, 3)).unwrap()
}

fn batch(side: usize) -> Batch {
    let bytes: Vec<u8> = (0u32..)
        .map(|i| (i * i % 251) as u8)
        .take(2 * 3 * side * side)
        .collect();
    let images = Tensor::from_vec(bytes, (2, 3, side, side), &Device::Cpu).unwrap();
    Batch::single(View::new(images, vec![]).unwrap())
}

fn loss(method: &Composite, side: usize) -> f32 {
    let terms = method.forward(&batch(side), &StepContext::new(5)).unwrap();
    terms.total().unwrap().to_scalar().unwrap()
}

#[test]
fn sizes_are_the_released_ones() {
    let count = |config: &FastMimConfig| -> usize {
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        store.vars().iter().map(|(_, var)| var.elem_count()).sum()
    };
    let vit = FastMimConfig::arch("vit_base").unwrap();
    assert_eq!(vit, FastMimConfig::default());
    assert_eq!(vit.hog().values(16, 3), 108);
    assert_eq!(count(&vit), 86_712_175);
    let pvt = FastMimConfig::arch("pvt_v2_b2").unwrap();
    assert_eq!((pvt.block_size, pvt.hog().values(32, 3)), (32, 432));
    assert_eq!(count(&pvt), 28_251_763);
    let swin = FastMimConfig::arch("swin_base").unwrap();
    assert_eq!(count(&swin), 90_231_083);
}

#[test]
fn the_same_hidden_pixels_give_the_same_loss_on_every_mask_grid() {
    let bits = [1, 0, 0, 1, 0, 1, 1, 0];
    let coarse = Mask::from_bits(PatchGrid::new(2, 2), &bits).unwrap();
    for (config, target) in [
        (swin(), FastMimTarget::Hog),
        (pvt(), FastMimTarget::Hog),
        (swin(), FastMimTarget::Pixel),
    ] {
        let of_blocks = |block_size: usize| {
            let config = FastMimConfig {
                block_size,
                target,
                norm_pix_loss: target == FastMimTarget::Hog,
                ..config.clone()
            };
            let side = 32 / config.mask_stride();
            let mask = coarse.upsample(PatchGrid::new(side, side)).unwrap();
            let mut method = build(&config);
            method.override_mask(mask).unwrap();
            loss(&method, 32)
        };
        let whole = of_blocks(16);
        assert!(whole > 0. && whole.is_finite());
        assert!((of_blocks(8) - whole).abs() < 1e-5 * whole);
        // Masks of blocks of several tokens lie on the tokens' grid.
        assert_eq!(of_blocks(32), whole);
    }
}

#[test]
fn a_stage_resizes_crops_masks_and_targets_and_trains_the_same_weights() {
    for (config, larger) in [(vit(), 48), (swin(), 64), (pvt(), 48)] {
        let config = FastMimConfig {
            stages: vec![ResolutionStage {
                epoch: 3,
                size: larger.into(),
            }],
            ..config
        };
        let store = config.store(&Device::Cpu, 3);
        let method = config.build(&store).unwrap();
        let crop = |epoch: usize| toml::to_string(&method.views(epoch)).unwrap();
        assert!(crop(0) == crop(2) && crop(3) == crop(100));
        assert!(crop(2).contains("[32, 32]") && !crop(2).contains(&larger.to_string()));
        assert!(crop(3).contains(&format!("[{larger}, {larger}]")));
        assert_eq!(Method::input(&method).size, 32.into());
        let names = store.names();
        let mut optimizer = AdamW::new(AdamWConfig::default(), store.trainable()).unwrap();
        let before: Vec<f32> = [32, larger].map(|side| loss(&method, side)).to_vec();
        for side in [32, larger, larger, 32] {
            let terms = method.forward(&batch(side), &StepContext::new(5)).unwrap();
            let mut gradients = Gradients::new(store.trainable());
            let total = terms.total().unwrap();
            gradients.add(total.backward().unwrap()).unwrap();
            for (name, _, gradient) in gradients.iter() {
                assert!(gradient.is_some(), "{name} at {side} pixels");
            }
            optimizer.step(&gradients, 1e-3).unwrap();
        }
        assert_eq!(store.names(), names);
        for (side, before) in [32, larger].into_iter().zip(before) {
            let after = loss(&method, side);
            assert!(after < before, "{side} pixels: {before} to {after}");
        }
    }
}

#[test]
fn reconstructions_need_pixel_targets() {
    let pixel = FastMimConfig {
        target: FastMimTarget::Pixel,
        block_size: 8,
        ..swin()
    };
    let drawn = build(&pixel).reconstruct(&batch(32), &StepContext::inference());
    assert_eq!(drawn.unwrap().reconstruction.dims(), [2, 3, 32, 32]);
    let drawn = build(&vit()).reconstruct(&batch(32), &StepContext::inference());
    assert!(drawn.unwrap_err().to_string().contains("pixel"));
}

#[test]
fn the_inner_encoder_has_no_mask_token() {
    for config in [vit(), swin()] {
        let config = FastMimConfig {
            encoder: match config.encoder.clone() {
                EncoderConfig::Vit(vit) => VitConfig {
                    mask_token: true,
                    ..vit
                }
                .into(),
                other => other,
            },
            ..config
        };
        let store = config.store(&Device::Cpu, 3);
        let method = config.build(&store).unwrap();
        let tokens = store.names().into_iter();
        let tokens = tokens.filter(|(name, _)| name.ends_with("mask_token"));
        assert_eq!(tokens.count(), 1);
        assert_eq!(store.var("mask_token").unwrap().dims(), [1, 3, 1, 1]);
        let trunk = method.encoder().unwrap().trunk();
        assert_eq!(trunk.dim(), config.encoder.dim());
    }
}

#[test]
fn invalid_settings_are_named() {
    type Wrong = (&'static str, fn(&mut FastMimConfig));
    let stage = |epoch: usize, side: usize| ResolutionStage {
        epoch,
        size: side.into(),
    };
    let wrong: [Wrong; 8] = [
        ("`block_size` is 12", |c| c.block_size = 12),
        ("`block_size` is 0", |c| c.block_size = 0),
        ("parts of 4 pixels", |c| c.block_size = 4),
        ("do not tile", |c| c.block_size = 64),
        ("`mask_ratio`", |c| c.mask_ratio = 1.),
        ("`hog_cell` is 3", |c| c.hog_cell = 3),
        ("decoder.num_heads", |c| c.decoder.num_heads = Some(5)),
        ("windows of 2x2", |c| {
            c.stages[0].size = 80.into();
        }),
    ];
    for (what, spoil) in wrong {
        let mut config = FastMimConfig {
            stages: vec![stage(1, 64)],
            ..swin()
        };
        assert!(config.build(&config.store(&Device::Cpu, 0)).is_ok());
        spoil(&mut config);
        let built = config.build(&config.store(&Device::Cpu, 0));
        let error = built.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let unsorted = FastMimConfig {
        stages: vec![stage(2, 48), stage(2, 64)],
        ..vit()
    };
    let trained = FastMimConfig {
        stages: vec![stage(2, 48)],
        encoder: VitConfig {
            image_size: 32.into(),
            pos_embed: mim_core::nn::PosEmbedKind::Learned,
            ..VitConfig::default()
        }
        .into(),
        ..vit()
    };
    let whole = FastMimConfig {
        stages: vec![stage(2, 48)],
        views: Some(ViewPlan::evaluation(40, 32)),
        ..vit()
    };
    for (config, what) in [
        (unsorted, "sort the stages"),
        (trained, "sincos"),
        (whole, "random_resized_crop"),
    ] {
        let built = config.build(&config.store(&Device::Cpu, 0));
        let error = built.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
