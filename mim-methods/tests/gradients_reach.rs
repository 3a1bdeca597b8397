//! Every trainable parameter of every method gets a finite gradient that is not zero.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use candle_core::{DType, Device, Tensor};
use mim_core::optim::Gradients;
use mim_core::{Batch, Crop, Method, StepContext, View};
use mim_methods::registry::METHODS;
use toml::Table;

/// Parameters whose gradient is zero by mathematics: (method, end of the name, share of it, reason).
const ZERO: &[(&str, &str, Part, &str)] = &[
    (
        "mae",
        "attn.qkv.bias",
        Part::MiddleThird,
        "softmax ignores a constant added to all keys",
    ),
    (
        "sim",
        "attn.qkv.bias",
        Part::MiddleThird,
        "softmax ignores a constant added to all keys",
    ),
    (
        "cmae",
        "attn.qkv.bias",
        Part::MiddleThird,
        "softmax ignores a constant added to all keys",
    ),
    (
        "cmae",
        "fc0.bias",
        Part::Whole,
        "batch normalisation takes the mean away",
    ),
    (
        "cmae",
        "feature.decoder_norm.bias",
        Part::Whole,
        "the same for all images, and the projector's batch normalisation takes the mean away",
    ),
    (
        "cmae",
        "feature.decoder_pred.bias",
        Part::Whole,
        "the same for all images, and the projector's batch normalisation takes the mean away",
    ),
];

/// A part of a parameter along its first axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    MiddleThird,
    Whole,
}

/// Each method at a size that a test can afford.
fn tiny(method: &str) -> Table {
    let text = match method {
        "mae" => "encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
                  decoder = { embed_dim = 8, depth = 1, num_heads = 2 }",
        "simmim" => "mask_patch_size = 16
                     encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }",
        "bootmae" => "masker = { hidden = { type = \"patches\", count = 10 }, blocks = { hidden = { type = \"patches\", count = 8 }, min_block = 2, max_block = 6 } }
                      encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
                      decoder = { embed_dim = 12, depth = 1, num_heads = 5 }
                      feature_decoder = { embed_dim = 16, depth = 1, num_heads = 2 }",
        "sim" => "masker = { hidden = { type = \"ratio\", ratio = 0.6 }, min_block = 2 }
                  encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
                  projector = { embed_dim = 12, depth = 1, num_heads = 2 }
                  predictor = { depth = 2, num_heads = 2 }",
        "cmae" => "mask_patch_size = 16
                   encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
                   decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
                   feature_decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
                   projector = { hidden_dim = 16, out_dim = 8 }
                   predictor = { hidden_dim = 16, out_dim = 8 }",
        other => panic!("give {other} a tiny size here"),
    };
    text.parse().unwrap()
}

fn build(entry: &mim_methods::registry::Entry) -> Box<dyn Method> {
    let settings = entry.resolve(tiny(entry.name)).unwrap();
    entry.build(settings, &Device::Cpu, 1).unwrap()
}

fn images(method: &dyn Method) -> Batch {
    let input = method.input();
    let shape = (4, input.channels(), input.size.height, input.size.width);
    let count = (shape.0 * shape.1 * shape.2 * shape.3) as u32;
    let bytes: Vec<u8> = (0..count)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let view = |index: u32| {
        let size = (shape.2 as u32, shape.3 as u32);
        let crop = |image: u32| Crop {
            top: (image + index) as f32,
            flipped: image == index,
            ..Crop::whole(size)
        };
        let pixels = Tensor::from_vec(bytes.clone(), shape, &Device::Cpu).unwrap();
        let pixels = pixels.flip(&[2 + index as usize % 2]).unwrap();
        View::new(pixels, (0..shape.0 as u32).map(crop).collect()).unwrap()
    };
    Batch {
        views: (0..method.views(0).views.len() as u32).map(view).collect(),
        ..Batch::single(view(0))
    }
}

fn gradients(method: &dyn Method) -> Gradients {
    let step = StepContext::new(3);
    let loss = method
        .forward(&images(method), &step)
        .unwrap()
        .total()
        .unwrap();
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    gradients.add(loss.backward().unwrap()).unwrap();
    gradients
}

#[test]
fn every_trainable_parameter_gets_a_gradient() {
    for entry in METHODS {
        let method = build(entry);
        for (name, var, gradient) in gradients(method.as_ref()).iter() {
            let full = format!("{} {name}", entry.name);
            let gradient = gradient.unwrap_or_else(|| panic!("{full}: no gradient arrives"));
            assert_eq!(gradient.dims(), var.dims(), "{full}");
            let values: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{full}: {values:?}");
            let zero = ZERO
                .iter()
                .find(|(method, end, ..)| *method == entry.name && name.ends_with(end));
            let (key, rest): (Vec<_>, Vec<_>) = match zero {
                Some((_, _, Part::MiddleThird, _)) => {
                    let third = values.len() / 3;
                    values
                        .iter()
                        .enumerate()
                        .partition(|(index, _)| (third..2 * third).contains(index))
                }
                Some((_, _, Part::Whole, _)) => (values.iter().enumerate().collect(), vec![]),
                None => (vec![], values.iter().enumerate().collect()),
            };
            let largest =
                |part: &[(usize, &f32)]| part.iter().fold(0f32, |max, (_, v)| max.max(v.abs()));
            assert!(
                rest.is_empty() || largest(&rest) > 1e-9,
                "{full}: the gradient is zero"
            );
            assert!(
                largest(&key) < 1e-6,
                "{full}: listed as zero, but {}",
                largest(&key)
            );
        }
    }
}

#[test]
fn the_zero_table_names_parameters_that_exist() {
    for (method, end, ..) in ZERO {
        let entry = mim_methods::registry::method(method).unwrap();
        let names = build(entry).stores()[0].1.trainable();
        assert!(
            names.iter().any(|(name, _)| name.ends_with(end)),
            "{method} {end}"
        );
    }
}

#[test]
fn teachers_and_frozen_parameters_get_none() {
    for entry in METHODS {
        let method = build(entry);
        let step = StepContext::new(3);
        let loss = method
            .forward(&images(method.as_ref()), &step)
            .unwrap()
            .total()
            .unwrap();
        let store = loss.backward().unwrap();
        for (name, weights) in method.stores() {
            let trainable = weights.trainable();
            for (parameter, var) in weights.vars() {
                let trains = trainable.iter().any(|(known, _)| *known == parameter);
                assert_eq!(
                    store.get(&var).is_some(),
                    trains,
                    "{} {name} {parameter}",
                    entry.name
                );
            }
        }
    }
}

#[test]
fn the_same_step_twice_gives_the_same_bits() {
    for entry in METHODS {
        let bits = || {
            let all = gradients(build(entry).as_ref());
            let values = all.iter().flat_map(|(_, _, gradient)| {
                gradient
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            });
            values.map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(), bits(), "{}", entry.name);
    }
}
