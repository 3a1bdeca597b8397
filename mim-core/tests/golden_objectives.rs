//! Objectives against the losses and gradients of the released training code.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor, Var};
use mim_core::comm::{Communicator, Reduce};
use mim_core::objectives::{
    CosineConfig, CrossEntropyConfig, InfoNceConfig, Region, RegressionConfig, RegressionKind,
    RowNorm, TokenWeights, UniGradConfig,
};
use mim_core::ops;
use mim_core::{Mask, Objective, PatchGrid, Prediction, Rows, StepContext, Target, TraceSink};
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

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor, rtol: f32) {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (flat(got), flat(want));
    let most = want.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (got, want) in got.iter().zip(&want) {
        let close = (got - want).abs() <= rtol * want.abs() + 1e-6 * most;
        assert!(close, "{got} against {want}");
    }
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

#[test]
fn dbots_smooth_l1_counts_the_class_token_and_has_its_gradient() {
    let case = Golden::load("components/dbot_smooth_l1");
    let bits = case.get("input.mask").narrow(1, 1, 16).unwrap();
    let bits = bits.flatten_all().unwrap().to_vec1().unwrap();
    let mask = Mask::from_bits(PatchGrid::new(4, 4), &bits).unwrap();
    let target = case.get("input.target");
    let target = Target {
        image: Some(target.narrow(1, 0, 1).unwrap().squeeze(1).unwrap()),
        ..Target::patches(target.narrow(1, 1, 16).unwrap())
    };
    let pred = Var::from_tensor(&case.get("input.pred")).unwrap();
    let objective = RegressionConfig::smooth_l1(2.).build().unwrap();
    let prediction = predict(&pred, Rows::ClsAndPatches, &mask);
    let loss = run(&objective, &prediction, &target, &mask);
    assert_loss(&loss, case.scalar("expect.loss_raw"));
    let grads = loss.backward().unwrap();
    let grad = grads.get(&pred).unwrap();
    assert_close(grad, &case.get("grad.pred_raw"), 1e-4);
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
fn evas_cosine_floors_each_length() {
    let case = Golden::load("components/eva_cosine_loss");
    let mask = Mask::from_bits(PatchGrid::new(1, 11), &[1; 11]).unwrap();
    let pred = Var::from_tensor(&case.get("input.pred")).unwrap();
    let target = Target::patches(case.get("input.target").unsqueeze(0).unwrap());
    let loss = run(
        &CosineConfig::default().build().unwrap(),
        &predict(&pred, Rows::Masked, &mask),
        &target,
        &mask,
    );
    assert_loss(&loss, case.scalar("expect.loss"));
    let grads = loss.backward().unwrap();
    let (grad, want) = (grads.get(&pred).unwrap(), case.get("grad.pred"));
    // Row by row: the gradients of tiny rows are larger by many orders.
    for row in 0..11 {
        assert_close(&grad.get(row).unwrap(), &want.get(row).unwrap(), 1e-3);
    }
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

/// The second of two processes: `other` is what it has in its place.
struct Pair {
    other: Tensor,
}

impl Communicator for Pair {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        2
    }

    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> mim_core::Result<Tensor> {
        let sum = (xs + &self.other)?;
        Ok(match how {
            Reduce::Sum => sum,
            Reduce::Mean => (sum / 2.)?,
        })
    }

    fn all_gather(&self, xs: &Tensor) -> mim_core::Result<Tensor> {
        Ok(Tensor::cat(&[xs, &self.other], 0)?)
    }
}

#[test]
fn uni_grad_on_one_and_two_processes() {
    let case = Golden::load("components/unigrad_loss");
    for (name, neg_weight) in [("w1", 0.02), ("w2", 0.02), ("ln", 0.5)] {
        let get = |part: &str| case.get(&part.replace('_', name));
        let targets = |name: &str| ops::normalize(&case.get(name), 1e-5).unwrap();
        let pred = Var::from_tensor(&get("input._.pred")).unwrap();
        let mut values = pred.as_tensor().clone();
        if name == "ln" {
            values = ops::normalize(&values, 1e-5).unwrap();
        }
        let target = Target::patches(targets(&format!("input.{name}.target")));
        let mut step = StepContext::new(0);
        if name == "w2" {
            let other = targets("input.w2.target_other_rank").flatten(0, 1).unwrap();
            let moment = other.t().unwrap().contiguous().unwrap().matmul(&other);
            let other = (moment.unwrap() / other.dim(0).unwrap() as f64).unwrap();
            step.comm = Arc::new(Pair { other });
        }
        let mask = Mask::from_bits(PatchGrid::new(1, 5), &[0; 15]).unwrap();
        let prediction = predict(&values, Rows::Patches, &mask);
        let objective = UniGradConfig { neg_weight }.build().unwrap();
        let terms = objective.loss(&prediction, &target, &mask, &step).unwrap();
        for ((_, value, _), part) in terms.terms().iter().zip(["pos", "neg"]) {
            let want = case.scalar(&format!("expect.{name}.{part}"));
            assert_loss(value, want);
        }
        let loss = terms.total().unwrap();
        assert_loss(&loss, case.scalar(&format!("expect.{name}.loss")));
        let grads = loss.backward().unwrap();
        assert_close(grads.get(&pred).unwrap(), &get("grad._.pred"), 1e-3);
    }
}

/// Process 1 of three; the others' tensors are recorded.
struct OneOfThree(Tensor);

impl Communicator for OneOfThree {
    fn rank(&self) -> usize {
        1
    }

    fn world(&self) -> usize {
        3
    }

    fn all_reduce(&self, _xs: &Tensor, _how: Reduce) -> mim_core::Result<Tensor> {
        Err(mim_core::Error::unsupported(
            "a sum",
            "none is recorded",
            "-",
        ))
    }

    fn all_gather(&self, xs: &Tensor) -> mim_core::Result<Tensor> {
        let others = self.0.chunk(2, 0)?;
        let [first, last] = [0, 1].map(|index| others[index].squeeze(0));
        Ok(Tensor::cat(&[&first?, xs, &last?], 0)?)
    }
}

#[derive(Default)]
struct Score(Mutex<Option<Tensor>>);

impl TraceSink for Score {
    fn record(&self, name: &str, value: &Tensor) -> mim_core::Result<()> {
        if name == "score" {
            *self.0.lock().unwrap() = Some(value.detach());
        }
        Ok(())
    }
}

#[test]
fn cmae_contrast_in_one_process_and_in_three() {
    let case = Golden::load("components/infonce_cmae");
    for (name, temperature, weight) in [("w1", 0.07, 1.), ("w3r1", 0.2, 0.5)] {
        let score = Arc::new(Score::default());
        let mut step = StepContext {
            trace: Some(score.clone()),
            ..StepContext::new(0)
        };
        if name == "w3r1" {
            step.comm = Arc::new(OneOfThree(case.get("input.w3r1.proj_t_others")));
        }
        let mask = mask_of(&case, &format!("input.{name}.mask"));
        let pred = Var::from_tensor(&case.get(&format!("input.{name}.pred"))).unwrap();
        let prediction = predict(pred.as_tensor(), Rows::Image, &mask);
        let target = Target::image(case.get(&format!("input.{name}.proj_t")));
        let config = InfoNceConfig {
            temperature,
            ..InfoNceConfig::default()
        };
        let objective = config.build().unwrap();
        let terms = objective.loss(&prediction, &target, &mask, &step).unwrap();
        let loss = (terms.total().unwrap() * weight).unwrap();
        assert_loss(&loss, case.scalar(&format!("expect.{name}.loss_ct")));
        let score = score.0.lock().unwrap().clone().unwrap();
        assert_close(&score, &case.get(&format!("expect.{name}.score")), 1e-5);
        let gradient = loss.backward().unwrap().get(&pred).unwrap().clone();
        assert_close(&gradient, &case.get(&format!("grad.{name}.pred")), 1e-3);
    }
}

#[test]
fn cmae_reconstruction_is_maes() {
    let case = Golden::load("components/infonce_cmae");
    for (name, weight) in [("w1", 1.), ("w3r1", 2.)] {
        let mask = mask_of(&case, &format!("input.{name}.mask"));
        let pred = Var::from_tensor(&case.get(&format!("input.{name}.pred_pixel"))).unwrap();
        let prediction = predict(pred.as_tensor(), Rows::Patches, &mask);
        let target = Target::patches(case.get(&format!("expect.{name}.target")));
        let mse = RegressionConfig::default().build().unwrap();
        let loss = (run(&mse, &prediction, &target, &mask) * weight).unwrap();
        assert_loss(&loss, case.scalar(&format!("expect.{name}.loss_rc")));
        let gradient = loss.backward().unwrap().get(&pred).unwrap().clone();
        assert_close(
            &gradient,
            &case.get(&format!("grad.{name}.pred_pixel")),
            1e-3,
        );
    }
}
