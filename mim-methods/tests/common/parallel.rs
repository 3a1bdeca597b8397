//! What one process of a group computes of the first step of a method.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mim_core::comm::{self, Communicator};
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::optim::Gradients;
use mim_core::params::Kind;
use mim_core::{Mask, Method, PatchGrid, StepContext};

/// Images of all processes together.
pub(crate) const IMAGES: usize = 8;
/// Methods at tiny sizes that can be given any mask of 4 x 4 patches, with the crops that are masked.
pub(crate) const METHODS: &[(&str, usize)] = &[
    ("mae", 1),
    ("sim", 1),
    ("cmae", 1),
    ("ibot", 2),
    ("attmask", 2),
    ("bootmae", 1),
];

/// Loss, gradients, centres and running statistics after a step on this process' share of [`IMAGES`] images, by name.
///
/// Draws are keyed by rank, so the masks are given: one for each image, whoever it belongs to.
pub(crate) fn first_step(
    mut method: Box<dyn Method>,
    crops: usize,
    comm: &Arc<dyn Communicator>,
) -> Vec<(String, Tensor)> {
    let (rank, world) = (comm.rank(), comm.world());
    let own = IMAGES / world;
    let loader = loader(method.as_ref(), own).sharded(rank, world).unwrap();
    let batch = loader.epoch(0, 0).unwrap().next().unwrap().unwrap();
    method
        .override_mask(mask(crops, rank * own..(rank + 1) * own))
        .unwrap();
    let step = StepContext {
        comm: comm.clone(),
        ..StepContext::new(5)
    };
    method.before_step(&step).unwrap();
    let loss = method.forward(&batch, &step).unwrap().total().unwrap();
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    gradients.backward(&loss).unwrap();
    gradients.average(comm.as_ref()).unwrap();
    let loss = f64::from(loss.to_scalar::<f32>().unwrap());
    let loss = comm::mean(comm.as_ref(), &[loss]).unwrap();
    let mut found = vec![("loss".to_owned(), Tensor::new(loss, &Device::Cpu).unwrap())];
    for (name, _, gradient) in gradients.iter() {
        found.push((
            format!("gradient of {name}"),
            gradient.unwrap().copy().unwrap(),
        ));
    }
    for (owner, store) in method.stores() {
        for (name, kind) in store.names() {
            if kind == Kind::Buffer {
                let value = store.var(&name).unwrap().copy().unwrap();
                found.push((format!("{owner}: {name}"), value));
            }
        }
    }
    found
}

/// Batches of the embedded images.
pub(crate) fn loader(method: &dyn Method, batch_size: usize) -> Loader {
    let data = DataSource::Embedded.open(Split::Train).unwrap();
    let loading = LoaderConfig {
        batch_size,
        workers: 0,
        ..LoaderConfig::default()
    };
    Loader::new(data, method.views(0), loading, 5).unwrap()
}

/// Masks of some of the images, crop by crop: ten of sixteen patches where there is one crop; else a number that
/// varies, down to none.
pub(crate) fn mask(crops: usize, images: impl Iterator<Item = usize> + Clone) -> Mask {
    let row = |crop: usize, image: usize| {
        let hidden = match crops {
            1 => 10,
            _ => (image + crop) * 3 % 8,
        };
        (0..16).map(move |token| u8::from((token * 7 + image * 5 + crop) % 16 < hidden))
    };
    let images = || images.clone();
    let bits: Vec<u8> = (0..crops)
        .flat_map(|crop| images().flat_map(move |image| row(crop, image)))
        .collect();
    Mask::from_bits(PatchGrid::new(4, 4), &bits).unwrap()
}

/// Asserts that all values differ by at most 1e-6 of the largest one of their tensor, or of 1e-3 where it is
/// smaller: some gradients are zero by mathematics, and all that is there is rounding.
pub(crate) fn assert_same(method: &str, found: &[(String, Tensor)], wanted: &[(String, Tensor)]) {
    let names = |all: &[(String, Tensor)]| -> Vec<String> {
        all.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(found), names(wanted), "{method}");
    for ((name, own), (_, wanted)) in found.iter().zip(wanted) {
        let largest = |xs: &Tensor| -> f64 {
            let xs = xs.to_dtype(candle_core::DType::F64).unwrap();
            xs.abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar()
                .unwrap()
        };
        let (off, scale) = (largest(&(own - wanted).unwrap()), largest(wanted));
        assert!(
            off <= 1e-6 * scale.max(1e-3),
            "{method}: {name}: off by {off:.2e} of {scale:.2e}"
        );
    }
}
