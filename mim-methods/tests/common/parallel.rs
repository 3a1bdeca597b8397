//! What one process of a group computes of the first step of a method.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mim_core::comm::{self, Communicator, Single};
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::optim::Gradients;
use mim_core::params::Kind;
use mim_core::{Batch, Mask, Method, PatchGrid, StepContext, View};

/// Images of all processes together.
pub(crate) const IMAGES: usize = 8;
/// Methods at tiny sizes that can be given any mask of 4 x 4 patches, with the crops that are masked; none in tokenizers.
pub(crate) const METHODS: &[(&str, usize)] = &[
    ("mae", 1),
    ("sim", 1),
    ("cmae", 1),
    ("ibot", 2),
    ("attmask", 2),
    ("bootmae", 1),
    ("vqkd", 0),
    ("peco_tokenizer", 0),
    ("beitv2", 1),
    ("mcbeit", 1),
];

/// Loss, gradients, centres and running statistics after a step on this process' share of [`IMAGES`] images, by name.
///
/// Draws are keyed by rank, so the masks are given: one for each image, whoever it belongs to.
pub(crate) fn first_step(
    method: Box<dyn Method>,
    crops: usize,
    comm: &Arc<dyn Communicator>,
) -> Vec<(String, Tensor)> {
    let (rank, own) = (comm.rank(), IMAGES / comm.world());
    let batch = share(method.as_ref(), comm.as_ref());
    let mask = mask(crops, rank * own..(rank + 1) * own);
    step_on(method, (batch, mask), comm)
}

/// This process' share of [`IMAGES`] images.
pub(crate) fn share(method: &dyn Method, comm: &dyn Communicator) -> Batch {
    let loader = loader(method, IMAGES / comm.world()).sharded(comm.rank(), comm.world());
    loader
        .unwrap()
        .epoch(0, 0)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
}

/// What one process gives for all images where only rounding differs: for the images from last to first, and for
/// weights whose last digits are others.
pub(crate) fn rounded_steps(
    build: impl Fn() -> Box<dyn Method>,
    crops: usize,
) -> [Vec<(String, Tensor)>; 2] {
    let alone: Arc<dyn Communicator> = Arc::new(Single);
    let nudged = build();
    nudge(nudged.as_ref());
    [backwards(build(), crops), first_step(nudged, crops, &alone)]
}

fn backwards(method: Box<dyn Method>, crops: usize) -> Vec<(String, Tensor)> {
    let batch = loader(method.as_ref(), IMAGES).epoch(0, 0).unwrap().next();
    let mut batch = batch.unwrap().unwrap();
    let mut order: Vec<u32> = (0..).take(IMAGES).collect();
    order.reverse();
    let order = Tensor::new(order, &Device::Cpu).unwrap();
    for view in &mut batch.views {
        let pixels = view.pixels().index_select(&order, 0).unwrap();
        let crops = view.crops.iter().rev().cloned().collect();
        *view = View::new(pixels, crops).unwrap();
    }
    let mask = mask(crops, (0..IMAGES).rev());
    let alone: Arc<dyn Communicator> = Arc::new(Single);
    step_on(method, (batch, mask), &alone)
}

/// Moves weights by their last digit, up and down in turns.
fn nudge(method: &dyn Method) {
    for (_, store) in method.stores() {
        for (_, weight) in store.parameters() {
            let signs = (0..weight.elem_count()).map(|at| if at % 2 == 0 { 1. } else { -1. });
            let factors: Vec<f32> = signs.map(|sign| 1. + sign * f32::EPSILON).collect();
            let factors = Tensor::from_vec(factors, weight.shape(), weight.device()).unwrap();
            weight
                .set(&(weight.as_tensor() * factors).unwrap())
                .unwrap();
        }
    }
}

fn step_on(
    mut method: Box<dyn Method>,
    (batch, mask): (Batch, Option<Mask>),
    comm: &Arc<dyn Communicator>,
) -> Vec<(String, Tensor)> {
    tell_images_apart(method.as_ref());
    if let Some(mask) = mask {
        method.override_mask(mask).unwrap();
    }
    let step = StepContext {
        comm: comm.clone(),
        ..StepContext::new(5)
    };
    method.before_step(&step).unwrap();
    let batch = batch.to_device(method.stores()[0].1.device()).unwrap();
    let loss = method.forward(&batch, &step).unwrap().total().unwrap();
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    // The first time shows when gradients are complete; the second time they go while the pass runs.
    for _ in 0..2 {
        gradients.clear();
        gradients.backward_sending(&loss, comm).unwrap();
        gradients.average(comm.as_ref()).unwrap();
    }
    let read = |values: &Tensor| values.copy().unwrap().to_device(&Device::Cpu).unwrap();
    let mut found = Vec::new();
    for (name, _, gradient) in gradients.iter() {
        found.push((format!("gradient of {name}"), read(gradient.unwrap())));
    }
    for (owner, store) in method.stores() {
        for (name, kind) in store.names() {
            if kind == Kind::Buffer {
                let value = read(&store.var(&name).unwrap());
                found.push((format!("{owner}: {name}"), value));
            }
        }
    }
    // Behind the gradients, which must be there without any further call.
    let loss = f64::from(loss.to_scalar::<f32>().unwrap());
    let loss = comm::mean(comm.as_ref(), &[loss]).unwrap();
    found.push(("loss".to_owned(), Tensor::new(loss, &Device::Cpu).unwrap()));
    found
}

/// At initial weights all images look nearly the same to an encoder. Batch norms take away what is the same, and
/// with it all digits but the last ones: what is left would differ in more than rounding.
fn tell_images_apart(method: &dyn Method) {
    for (_, store) in method.stores() {
        if let Some(weight) = store.var("patch_embed.proj.weight") {
            let larger = (weight.as_tensor() * 8.).unwrap();
            weight.set(&larger).unwrap();
        }
    }
}

/// Settings without stochastic depth, whose draws are keyed by rank, and without codes that are made of images drawn by
/// their number in the batch.
pub(crate) fn without_drop_path(mut settings: toml::Table) -> toml::Table {
    if let Some(toml::Value::Table(encoder)) = settings.get_mut("encoder") {
        encoder.insert("drop_path_rate".to_owned(), 0f64.into());
    }
    let network = settings.get("network").is_some();
    let codebook = match network {
        true => settings
            .get_mut("network")
            .and_then(|all| all.get_mut("codebook")),
        false => settings.get_mut("codebook"),
    };
    if let Some(codebook) = codebook.and_then(toml::Value::as_table_mut) {
        codebook.insert("kmeans".to_owned(), 0.into());
        codebook.remove("restart_below");
    }
    settings
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
/// varies, down to none; no mask where there is no crop.
pub(crate) fn mask(crops: usize, images: impl Iterator<Item = usize> + Clone) -> Option<Mask> {
    if crops == 0 {
        return None;
    }
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
    Some(Mask::from_bits(PatchGrid::new(4, 4), &bits).unwrap())
}

/// Asserts that all values differ from those wanted by at most 1e-6 of the largest one of their tensor or, where
/// that is more, four times what rounding makes of them in one process (`rounded`): batch norms take away what images
/// have in common, and parts of the gradients before them cancel but for rounding; and the products of smaller batches
/// may be summed in another order. So must all gradients together. A tensor far below the largest of all may differ by
/// the last digits of that one.
pub(crate) fn assert_same(
    method: &str,
    found: &[(String, Tensor)],
    wanted: &[(String, Tensor)],
    rounded: &[Vec<(String, Tensor)>],
) {
    let names = |all: &[(String, Tensor)]| -> Vec<String> {
        all.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(found), names(wanted), "{method}");
    let largest = |xs: &Tensor| -> f64 {
        let xs = xs.to_dtype(DType::F64).unwrap().abs().unwrap();
        xs.flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar()
            .unwrap()
    };
    let largest_of_all = wanted.iter().map(|(_, xs)| largest(xs)).fold(0., f64::max);
    let mut wrong = Vec::new();
    for (at, ((name, own), (_, wanted))) in found.iter().zip(wanted).enumerate() {
        let off = |xs: &Tensor| largest(&(xs - wanted).unwrap());
        let rounded = rounded.iter().map(|found| off(&found[at].1));
        let (rounding, scale) = (rounded.fold(0., f64::max), largest(wanted));
        let off = off(own);
        assert!(
            rounding <= 1e-5 * largest_of_all,
            "{method}: {name}: {rounding:.2e}"
        );
        let last_digits = 1e-6 * largest_of_all;
        if off > (1e-6 * scale).max(4. * rounding).max(last_digits) {
            let most = format!("{scale:.2e}, rounding makes {rounding:.2e}");
            wrong.push(format!("{name}: off by {off:.2e} of {most}"));
        }
    }
    assert!(wrong.is_empty(), "{method}:\n{}", wrong.join("\n"));
    let rounding = rounded.iter().map(|found| apart(found, wanted));
    let (off, rounding) = (apart(found, wanted), rounding.fold(0., f64::max));
    assert!(
        off <= (4. * rounding).max(1e-6),
        "{method}: gradients differ by {off:.1e}, rounding makes {rounding:.1e}"
    );
}

/// The length of the difference of all gradients together, as a share of theirs.
fn apart(found: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> f64 {
    let squares = |xs: &Tensor| -> f64 {
        let squares = xs.to_dtype(DType::F64).unwrap().sqr().unwrap();
        squares.sum_all().unwrap().to_scalar().unwrap()
    };
    let (mut off, mut whole) = (0., 0.);
    for ((name, own), (_, wanted)) in found.iter().zip(wanted) {
        if name.starts_with("gradient of ") {
            off += squares(&(own - wanted).unwrap());
            whole += squares(wanted);
        }
    }
    if off == 0. { 0. } else { (off / whole).sqrt() }
}
