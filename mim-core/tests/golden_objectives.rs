//! Objectives against the losses of the released training code, in cases of whole methods.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use candle_core::{DType, Device, Tensor};
use mim_core::objectives::{
    CosineConfig, CrossEntropyConfig, Region, RegressionConfig, RegressionKind, RowNorm,
    TokenWeights,
};
use mim_core::{Mask, Objective, PatchGrid, Prediction, Rows, StepContext, Target};
use mim_testing::Golden;

/// A recorded 0/1 mask, `[images, tokens]` or on a grid.
fn mask_of(case: &Golden, name: &str) -> Mask {
    let side = case.get(name).flatten_from(1).unwrap().dim(1).unwrap();
    let side = side.isqrt();
    Mask::from_bits(PatchGrid::new(side, side), &case.bytes(name)).unwrap()
}

fn predict(values: &Tensor, rows: Rows, mask: &Mask) -> Prediction {
    Prediction {
        values: values.clone(),
        rows,
        grid: mask.grid(),
    }
}

fn run(objective: &dyn Objective, prediction: &Prediction, target: &Target, mask: &Mask) -> Tensor {
    let step = StepContext::new(0);
    let terms = objective.loss(prediction, target, mask, &step).unwrap();
    terms.total().unwrap()
}

#[track_caller]
fn assert_loss(got: &Tensor, want: f32) {
    let got: f32 = got.to_scalar().unwrap();
    let close = (got - want).abs() <= 1e-5 * (1. + want.abs());
    assert!(close, "{got} against {want}");
}

/// `[batch, channels, height, width]` as rows of patches, channel first.
fn rows_of(images: &Tensor, side: usize) -> Tensor {
    let (batch, channels, height, width) = images.dims4().unwrap();
    let (p, q) = (height / side, width / side);
    images
        .reshape(&[batch, channels, side, p, side, q][..])
        .unwrap()
        .permute([0, 2, 4, 1, 3, 5])
        .unwrap()
        .reshape((batch, side * side, channels * p * q))
        .unwrap()
}

fn check_mae(case: &Golden) {
    let mask = mask_of(case, "input.mask");
    let target = Target::patches(case.get("expect.target"));
    let mse = RegressionConfig::default().build().unwrap();
    let pred = case.get("expect.pred");
    let all = predict(&pred, Rows::Patches, &mask);
    assert_loss(&run(&mse, &all, &target, &mask), case.scalar("expect.loss"));
    let ids = mask.flat(true, pred.dim(0).unwrap(), &Device::Cpu).unwrap();
    let hidden = pred.flatten(0, 1).unwrap().index_select(&ids, 0).unwrap();
    let hidden = predict(&hidden, Rows::Masked, &mask);
    assert_loss(
        &run(&mse, &hidden, &target, &mask),
        case.scalar("expect.loss"),
    );
}

#[test]
fn mae_from_all_patches_and_from_hidden_ones() {
    check_mae(&Golden::load("mae/case1_normpix"));
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn mae_from_raw_pixels() {
    check_mae(&Golden::load_shared("mae/case2_rawpix"));
}

#[test]
fn simmim_counts_pixels_once() {
    let case = Golden::load("simmim/vit_case1");
    let mask = mask_of(&case, "input.mask");
    let pred = rows_of(&case.get("expect.reconstruction"), 6);
    let target = Target::patches(rows_of(&case.get("input.images"), 6));
    let l1 = RegressionConfig::simmim().build().unwrap();
    let loss = run(&l1, &predict(&pred, Rows::Patches, &mask), &target, &mask);
    assert_loss(&loss, case.scalar("expect.loss"));
}

#[test]
fn bootmae_weighs_the_inside_of_blocks() {
    for (name, weights) in [
        ("bootmae/case0", TokenWeights::Neighbours),
        ("bootmae/case1", TokenWeights::Uniform),
    ] {
        let case = Golden::load(name);
        let mask = mask_of(&case, "expect.loss_mask");
        let side = mask.grid().rows;
        let pixel = RegressionConfig {
            weights,
            ..RegressionConfig::default()
        };
        let feature = RegressionConfig {
            row_norm: RowNorm::LayerNorm { eps: 1e-6 },
            ..pixel.clone()
        };
        for (config, pred, target, loss) in [
            (
                pixel,
                rows_of(&case.get("expect.pix_pred"), side),
                rows_of(&case.get("expect.pix_target"), side),
                "expect.loss_pixel",
            ),
            (
                feature,
                case.get("expect.feat_pred"),
                case.get("expect.feat_target"),
                "expect.loss_feature",
            ),
        ] {
            let got = run(
                &config.build().unwrap(),
                &predict(&pred, Rows::Patches, &mask),
                &Target::patches(target),
                &mask,
            );
            assert_loss(&got, case.scalar(loss));
        }
    }
}

fn check_saim(case: &Golden, kind: RegressionKind) {
    let target = case.get("expect.target");
    let (images, tokens, _) = target.dims3().unwrap();
    let side = tokens.isqrt();
    let bits = vec![1u8; images * tokens];
    let mask = Mask::from_bits(PatchGrid::new(side, side), &bits).unwrap();
    let config = RegressionConfig {
        kind,
        region: Region::All,
        ..RegressionConfig::default()
    };
    let pred = case.get("expect.pred").narrow(1, 1, tokens).unwrap();
    let got = run(
        &config.build().unwrap(),
        &predict(&pred, Rows::Patches, &mask),
        &Target::patches(target),
        &mask,
    );
    assert_loss(&got, case.scalar("expect.loss"));
}

#[test]
fn saim_counts_every_patch() {
    check_saim(&Golden::load("saim/mlp_blur"), RegressionKind::Mse);
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn saim_counts_every_patch_in_l1() {
    let case = Golden::load_shared("saim/linear_l1_shared");
    check_saim(&case, RegressionKind::L1);
}

#[test]
fn sdae_compares_over_tokens_of_folds_or_over_features() {
    let case = Golden::load("sdae/multifold");
    let hidden: Vec<i64> = case
        .get("input.ids_masked")
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let hidden: Vec<u32> = hidden.iter().map(|id| *id as u32).collect();
    let order = hidden
        .chunks(12)
        .flat_map(|row| {
            (0..16)
                .filter(|id| !row.contains(id))
                .chain(row.iter().copied())
        })
        .collect();
    let mask = Mask::new(PatchGrid::new(4, 4), order, vec![4, 4]).unwrap();
    let target = case.get("expect.target_used").reshape((2, 12, 32)).unwrap();
    let target = Target {
        rows: Rows::Masked,
        ..Target::patches(target)
    };
    let all = predict(&case.get("expect.pred"), Rows::Patches, &mask);
    let used = case.get("expect.pred_used").reshape((2, 12, 32)).unwrap();
    let used = predict(&used, Rows::Masked, &mask);
    let features = CosineConfig {
        offset: 1.,
        ..CosineConfig::default()
    };
    for (config, name) in [
        (CosineConfig::sdae(3), "expect.loss"),
        (features, "expect.loss_cosine_over_features"),
    ] {
        for prediction in [&all, &used] {
            let got = run(&config.build().unwrap(), prediction, &target, &mask);
            assert_loss(&got, case.scalar(name));
        }
    }
}

#[test]
fn milan_counts_every_token() {
    let case = Golden::load("milan/random_mask");
    let mask = mask_of(&case, "input.mask");
    let target = case.get("expect.clip_target");
    let target = Target {
        image: Some(target.narrow(1, 0, 1).unwrap().squeeze(1).unwrap()),
        ..Target::patches(target.narrow(1, 1, 36).unwrap())
    };
    let got = run(
        &CosineConfig::milan().build().unwrap(),
        &predict(&case.get("expect.pred"), Rows::ClsAndPatches, &mask),
        &target,
        &mask,
    );
    assert_loss(&got, case.scalar("expect.loss"));
}

#[test]
fn beits_ids_and_mc_beits_probabilities() {
    let objective = CrossEntropyConfig::default().build();
    {
        let case = Golden::load("beit/case_a");
        let mask = mask_of(&case, "input.mask");
        let ids = case.get("expect.tokens").to_dtype(DType::U32).unwrap();
        let got = run(
            &objective,
            &predict(&case.get("expect.logits_masked"), Rows::Masked, &mask),
            &Target::patches(ids),
            &mask,
        );
        assert_loss(&got, case.scalar("expect.loss"));
    }
    {
        let case = Golden::load("mcbeit/case_a");
        let mask = mask_of(&case, "input.mask");
        let got = run(
            &objective,
            &predict(&case.get("expect.logits"), Rows::Patches, &mask),
            &Target::patches(case.get("expect.refined_target")),
            &mask,
        );
        assert_loss(&got, case.scalar("expect.loss"));
    }
}
